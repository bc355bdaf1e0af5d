"""Describes the real LiteLLM proxy, for the stand-in to be checked against.

Usage: openapi.py FILE

The document is the one that the proxy itself serves as /openapi.json, with two additions. The proxy
leaves the answers of its completion routes undescribed, so the models that it builds those answers
from are added to the components, as "answer-<their name>". And what no schema says, the real proxy
says itself: "x-observed" holds requests and the answers that it gave to them, in this process,
without a database and with a model whose reply is fixed. Routes that need the database can't be
observed this way; they are checked against their schemas alone. Budgets need it too: "x-budget" is what
the proxy's own check and its own error handling make of a key that has spent its budget.
"""

import json
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

MASTER_KEY = "sk-master-key-of-the-contract"
MODEL = "agent"
CONFIG = {
    "model_list": [
        {
            "model_name": MODEL,
            "litellm_params": {
                "model": "openai/none",
                "api_key": "none",
                "mock_response": "a fixed reply",
            },
        }
    ],
    "general_settings": {"master_key": MASTER_KEY},
}

MESSAGES = [{"role": "user", "content": "hello"}]
JSON = {"content-type": "application/json"}
ADMIN = {"authorization": f"Bearer {MASTER_KEY}"}
REQUESTS = [
    # name, method, path, headers, body
    ("alive", "GET", "/health/liveliness", {}, None),
    ("ready", "GET", "/health/readiness", {}, None),
    ("models", "GET", "/v1/models", ADMIN, None),
    ("models without a key", "GET", "/v1/models", {}, None),
    ("models with a bare key", "GET", "/v1/models", {"authorization": MASTER_KEY}, None),
    ("no such route", "GET", "/nope", ADMIN, None),
    ("completion", "POST", "/v1/chat/completions", ADMIN, {"model": MODEL, "messages": MESSAGES}),
    (
        "stream",
        "POST",
        "/v1/chat/completions",
        ADMIN,
        {"model": MODEL, "messages": MESSAGES, "stream": True},
    ),
    (
        "stream with usage",
        "POST",
        "/v1/chat/completions",
        ADMIN,
        {
            "model": MODEL,
            "messages": MESSAGES,
            "stream": True,
            "stream_options": {"include_usage": True},
        },
    ),
    (
        "completion without a key",
        "POST",
        "/v1/chat/completions",
        {},
        {"model": MODEL, "messages": MESSAGES},
    ),
    (
        "completion of an unknown model",
        "POST",
        "/v1/chat/completions",
        ADMIN,
        {"model": "unknown", "messages": MESSAGES},
    ),
    ("completion of nothing", "POST", "/v1/chat/completions", ADMIN, {"model": MODEL}),
    ("completion that is no JSON", "POST", "/v1/chat/completions", ADMIN, "{nope"),
    ("key without a key", "POST", "/key/generate", {}, {}),
    ("key of a wrong type", "POST", "/key/generate", ADMIN, {"duration": 7}),
    ("key with wrong metadata", "POST", "/key/generate", ADMIN, {"metadata": "alice"}),
    ("key that is no JSON", "POST", "/key/generate", ADMIN, "{nope"),
]


def document(app) -> dict:
    import litellm.types.utils as types

    openapi = app.openapi()
    schemas = openapi["components"]["schemas"]
    for name in ("ModelResponse", "ModelResponseStream"):
        schema = getattr(types, name).model_json_schema(
            ref_template="#/components/schemas/answer-{model}"
        )
        for nested, definition in schema.pop("$defs", {}).items():
            schemas[f"answer-{nested}"] = as_sent(definition)
        schemas[f"answer-{name}"] = as_sent(schema)
    return openapi


def as_sent(schema: dict) -> dict:
    """What is null is left out on the wire, so that what may be null isn't required there."""
    nullable = {
        name
        for name, field in schema.get("properties", {}).items()
        if {"type": "null"} in field.get("anyOf", [])
    }
    required = [name for name in schema.get("required", []) if name not in nullable]
    return {**schema, "required": required}


def observed(app) -> list:
    from fastapi.testclient import TestClient

    observations = []
    with TestClient(app) as client:
        for name, method, path, headers, body in REQUESTS:
            text = body if body is None or isinstance(body, str) else json.dumps(body)
            sent = headers if text is None else {**headers, **JSON}
            answer = client.request(method, path, headers=sent, content=text)
            observations.append(
                {
                    "name": name,
                    "request": {"method": method, "path": path, "headers": sent, "body": text},
                    "answer": {
                        "status": answer.status_code,
                        "content-type": answer.headers.get("content-type"),
                        "body": answer.text,
                    },
                }
            )
    return observations


def over_budget() -> dict:
    import asyncio

    import litellm
    from litellm.proxy._types import UserAPIKeyAuth
    from litellm.proxy.auth.auth_checks import virtual_key_max_budget_check
    from litellm.proxy.auth.auth_exception_handler import _as_proxy_exception
    from litellm.proxy.proxy_server import proxy_logging_obj

    key = UserAPIKeyAuth(
        token="0" * 64, key_alias="alice", key_name="sk-...6789", spend=1.5, max_budget=1.0
    )

    async def check():
        await virtual_key_max_budget_check(
            valid_token=key, proxy_logging_obj=proxy_logging_obj, user_obj=None
        )

    try:
        asyncio.run(check())
    except litellm.BudgetExceededError as error:
        answer = _as_proxy_exception(error)
        return {"status": int(answer.code), "body": {"error": answer.to_dict()}}
    sys.exit("the proxy lets a key be used that has spent its budget")


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory, "config.yaml")
        # JSON is YAML.
        config.write_text(json.dumps(CONFIG))
        for inherited in ("DATABASE_URL", "LITELLM_SALT_KEY"):
            os.environ.pop(inherited, None)
        os.environ["CONFIG_FILE_PATH"] = str(config)
        os.environ["LITELLM_MASTER_KEY"] = MASTER_KEY
        # It would look up prices on the internet, for a minute when there is none.
        os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

        from litellm.proxy.proxy_server import app

        described = document(app)
        described["x-litellm-version"] = version("litellm")
        described["x-master-key"] = MASTER_KEY
        described["x-model"] = MODEL
        described["x-observed"] = observed(app)
        described["x-budget"] = over_budget()

    target = Path(sys.argv[1])
    beside = target.with_suffix(".new")
    beside.write_text(json.dumps(described))
    beside.replace(target)


if __name__ == "__main__":
    main()
