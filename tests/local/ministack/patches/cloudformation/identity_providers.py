"""Identity providers of user pools."""

from ministack.services import cognito

from .resource import Resource, answered, only


class IdentityProvider(Resource):
    create_only = ("UserPoolId", "ProviderName", "ProviderType")
    changeable = ("ProviderDetails", "AttributeMapping", "IdpIdentifiers")

    def create(self, logical_id, properties, stack):
        request = only(properties, *self.create_only, *self.changeable)
        answered(cognito._create_identity_provider(request), "CreateIdentityProvider")
        return properties["ProviderName"], {}

    def update(self, physical_id, before, after, stack):
        dropped = {"AttributeMapping": {}, "IdpIdentifiers": []}
        request = {**dropped, **only(after, "UserPoolId", "ProviderName", *self.changeable)}
        answered(cognito._update_identity_provider(request), "UpdateIdentityProvider")
        return physical_id, {}

    def delete(self, physical_id, properties):
        # One that is gone already counts as deleted, as does one whose pool is.
        cognito._delete_identity_provider(
            {"UserPoolId": properties["UserPoolId"], "ProviderName": physical_id}
        )


TYPES = {"AWS::Cognito::UserPoolIdentityProvider": IdentityProvider()}
