"""Access entries, add-ons and pod identities of an EKS cluster."""

from ministack.services import eks

from .resource import Resource, answered, camel, gone, only, reconcile_tags, tags


class AccessEntry(Resource):
    create_only = ("ClusterName", "PrincipalArn", "Type")

    def create(self, logical_id, properties, stack):
        cluster, principal = properties["ClusterName"], properties["PrincipalArn"]
        body = camel(only(properties, "PrincipalArn", "Type", "KubernetesGroups", "Username"))
        response = eks._create_access_entry(cluster, {**body, "tags": tags(properties)})
        entry = answered(response, "CreateAccessEntry")["accessEntry"]
        for policy in properties.get("AccessPolicies", []):
            self._associate(cluster, principal, policy)
        return f"{principal}|{cluster}", {"AccessEntryArn": entry["accessEntryArn"]}

    def update(self, physical_id, before, after, stack):
        cluster, principal = after["ClusterName"], after["PrincipalArn"]
        changed = {
            "kubernetesGroups": after.get("KubernetesGroups", []),
            "username": after.get("Username", ""),
        }
        response = eks._update_access_entry(cluster, principal, changed)
        arn = answered(response, "UpdateAccessEntry")["accessEntry"]["accessEntryArn"]
        wanted = after.get("AccessPolicies", [])
        for policy in wanted:
            self._associate(cluster, principal, policy)
        kept = {policy["PolicyArn"] for policy in wanted}
        for policy in before.get("AccessPolicies", []):
            if policy["PolicyArn"] not in kept:
                eks._disassociate_access_policy(cluster, principal, policy["PolicyArn"])
        reconcile_tags(eks._access_entries[eks._ae_key(cluster, principal)], before, after)
        return physical_id, {"AccessEntryArn": arn}

    def delete(self, physical_id, properties):
        principal, _, cluster = physical_id.rpartition("|")
        gone(eks._delete_access_entry(cluster, principal), "DeleteAccessEntry")

    @staticmethod
    def _associate(cluster, principal, policy):
        answered(
            eks._associate_access_policy(cluster, principal, camel(policy)),
            "AssociateAccessPolicy",
        )


class Addon(Resource):
    create_only = ("ClusterName", "AddonName", "NamespaceConfig")
    changeable = (
        "AddonVersion",
        "ConfigurationValues",
        "ServiceAccountRoleArn",
        "PodIdentityAssociations",
    )

    def create(self, logical_id, properties, stack):
        cluster = properties["ClusterName"]
        body = camel(only(properties, "AddonName", *self.changeable))
        response = eks._create_addon(cluster, {**body, "tags": tags(properties)})
        addon = answered(response, "CreateAddon")["addon"]
        return f"{cluster}|{addon['addonName']}", {"Arn": addon["addonArn"]}

    def update(self, physical_id, before, after, stack):
        cluster, _, name = physical_id.partition("|")
        body = camel(only(after, *self.changeable))
        answered(eks._update_addon(cluster, name, body), "UpdateAddon")
        addon = eks._addons[f"{cluster}/{name}"]
        reconcile_tags(addon, before, after)
        return physical_id, {"Arn": addon["addonArn"]}

    def delete(self, physical_id, properties):
        cluster, _, name = physical_id.partition("|")
        gone(eks._delete_addon(cluster, name), "DeleteAddon")


class PodIdentityAssociation(Resource):
    create_only = ("ClusterName", "Namespace", "ServiceAccount")
    changeable = ("RoleArn", "TargetRoleArn", "DisableSessionTags", "Policy")

    def create(self, logical_id, properties, stack):
        body = camel(only(properties, "Namespace", "ServiceAccount", *self.changeable))
        response = eks._create_pod_identity_association(
            properties["ClusterName"], {**body, "tags": tags(properties)}
        )
        association = answered(response, "CreatePodIdentityAssociation")["association"]
        return association["associationArn"], self._attributes(association)

    def update(self, physical_id, before, after, stack):
        cluster, identifier = self._parts(physical_id)
        body = camel(only(after, *self.changeable))
        response = eks._update_pod_identity_association(cluster, identifier, body)
        association = answered(response, "UpdatePodIdentityAssociation")["association"]
        record = eks._pod_identity_associations[eks._pia_key(cluster, identifier)]
        reconcile_tags(record, before, after)
        return physical_id, self._attributes(association)

    def delete(self, physical_id, properties):
        response = eks._delete_pod_identity_association(*self._parts(physical_id))
        gone(response, "DeletePodIdentityAssociation")

    @staticmethod
    def _parts(arn):
        cluster, identifier = arn.rsplit("/", 2)[1:]
        return cluster, identifier

    @staticmethod
    def _attributes(association):
        return {
            "AssociationArn": association["associationArn"],
            "AssociationId": association["associationId"],
            "ExternalId": association.get("externalId", ""),
        }


TYPES = {
    "AWS::EKS::AccessEntry": AccessEntry(),
    "AWS::EKS::Addon": Addon(),
    "AWS::EKS::PodIdentityAssociation": PodIdentityAssociation(),
}
