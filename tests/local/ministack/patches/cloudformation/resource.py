"""What the types share."""

import json
import re

from ministack.services.cloudformation import provisioners


class Resource:
    """One type. `create(logical_id, properties, stack)` answers (physical id, attributes)."""

    create_only = ()

    def create(self, logical_id, properties, stack):
        raise NotImplementedError

    def update(self, physical_id, before, after, stack):
        raise NotImplementedError

    def delete(self, physical_id, properties):
        raise NotImplementedError


def physical_name(stack, logical_id, limit):
    return provisioners._physical_name(stack, logical_id, max_len=limit)


def tags(properties):
    return provisioners._tag_map(properties.get("Tags"))


def reconcile_tags(record, before, after):
    provisioners._reconcile_tag_map(record.setdefault("tags", {}), before, after)


def camel(value):
    """CloudFormation's PascalCase members as an EKS API spells them."""
    if isinstance(value, dict):
        return {key[:1].lower() + key[1:]: camel(inner) for key, inner in value.items()}
    return [camel(inner) for inner in value] if isinstance(value, list) else value


def only(properties, *names):
    """The named properties that the template sets."""
    return {name: properties[name] for name in names if name in properties}


def answered(response, what):
    """The decoded JSON of a service's response; its error fails the resource, and so the stack."""
    text = _text(response, what)
    return json.loads(text) if text else {}


def element(response, tag, what):
    """The content of one element of a service's XML response."""
    return re.search(f"<{tag}>([^<]+)</{tag}>", _text(response, what)).group(1)


def gone(response, what):
    """A resource that somebody else has deleted already counts as deleted."""
    if response[0] != 404:
        _text(response, what)


def _text(response, what):
    status, _, body = response
    text = body.decode() if isinstance(body, bytes) else body
    if status >= 400:
        raise ValueError(f"{what}: {text}")
    return text
