"""Archives, composite alarms, OIDC providers, resource policies of secrets."""

import json

from ministack.services import cloudwatch, eventbridge, iam, secretsmanager

from .resource import Resource, answered, element, only, physical_name


class Archive(Resource):
    create_only = ("ArchiveName", "SourceArn")
    changeable = ("Description", "EventPattern", "RetentionDays", "KmsKeyIdentifier")

    def create(self, logical_id, properties, stack):
        name = properties.get("ArchiveName") or physical_name(stack, logical_id, 48)
        request = {
            "ArchiveName": name,
            "EventSourceArn": properties["SourceArn"],
            **self._request(properties),
        }
        answered(eventbridge._create_archive(request), "CreateArchive")
        return name, self._attributes(name)

    def update(self, physical_id, before, after, stack):
        dropped = {"Description": "", "EventPattern": "", "RetentionDays": 0}
        request = {"ArchiveName": physical_id, **dropped, **self._request(after)}
        answered(eventbridge._update_archive(request), "UpdateArchive")
        return physical_id, self._attributes(physical_id)

    def delete(self, physical_id, properties):
        eventbridge._delete_archive({"ArchiveName": physical_id})

    def _request(self, properties):
        request = only(properties, *self.changeable)
        if isinstance(request.get("EventPattern"), dict):
            request["EventPattern"] = json.dumps(request["EventPattern"])
        return request

    @staticmethod
    def _attributes(name):
        return {"Arn": eventbridge._archives[name]["ArchiveArn"], "ArchiveName": name}


class CompositeAlarm(Resource):
    create_only = ("AlarmName",)

    def create(self, logical_id, properties, stack):
        name = properties.get("AlarmName") or physical_name(stack, logical_id, 255)
        return name, self._put(name, properties)

    def update(self, physical_id, before, after, stack):
        return physical_id, self._put(physical_id, after)

    def delete(self, physical_id, properties):
        cloudwatch.cloudformation_delete_metric_alarm(physical_id)
        cloudwatch._composite_alarms.pop(physical_id, None)

    @staticmethod
    def _put(name, properties):
        enabled = str(properties.get("ActionsEnabled", True)).lower() == "true"
        request = {**properties, "AlarmName": name, "ActionsEnabled": enabled}
        response = cloudwatch._put_composite_alarm({}, request, False, is_json=True)
        answered(response, "PutCompositeAlarm")
        return {"Arn": cloudwatch._composite_alarms[name]["AlarmArn"]}


class OidcProvider(Resource):
    create_only = ("Url",)

    def create(self, logical_id, properties, stack):
        request = {"Url": [properties["Url"]]}
        for parameter, values in self._lists(properties).items():
            for number, value in enumerate(values, 1):
                request[f"{parameter}.member.{number}"] = [value]
        response = iam._create_oidc_provider(request)
        arn = element(response, "OpenIDConnectProviderArn", "CreateOpenIDConnectProvider")
        return arn, {"Arn": arn}

    def update(self, physical_id, before, after, stack):
        iam._oidc_providers[physical_id].update(self._lists(after))
        return physical_id, {"Arn": physical_id}

    def delete(self, physical_id, properties):
        iam._delete_oidc_provider({"OpenIDConnectProviderArn": [physical_id]})

    @staticmethod
    def _lists(properties):
        return {
            "ClientIDList": list(properties.get("ClientIdList", [])),
            "ThumbprintList": list(properties.get("ThumbprintList", [])),
        }


class SecretPolicy(Resource):
    create_only = ("SecretId",)

    def create(self, logical_id, properties, stack):
        request = {
            "SecretId": properties["SecretId"],
            "ResourcePolicy": json.dumps(properties["ResourcePolicy"]),
        }
        secret = answered(secretsmanager._put_resource_policy(request), "PutResourcePolicy")["ARN"]
        return secret, {"Id": secret}

    def update(self, physical_id, before, after, stack):
        return self.create("", after, stack)

    def delete(self, physical_id, properties):
        secretsmanager._resource_policies.pop(physical_id, None)


TYPES = {
    "AWS::Events::Archive": Archive(),
    "AWS::CloudWatch::CompositeAlarm": CompositeAlarm(),
    "AWS::IAM::OIDCProvider": OidcProvider(),
    "AWS::SecretsManager::ResourcePolicy": SecretPolicy(),
}
