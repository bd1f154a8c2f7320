"""The AWS that moto simulates, CloudFormation included, for a real AWS command line: `python -m
tests.documents.simulated_aws`
prints its address and serves until it is killed.

moto's CloudFormation (5.2.5) knows neither bucket policies, queue policies nor alarms: it leaves them out with a word
in its log.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from types import ModuleType
from typing import Any, cast

from werkzeug.serving import make_server

from localcloud.aws.cloud_config import ACCOUNT

IMAGE = "ami-12c6146b"
_IMAGE_PARAMETER = "/aws/service/debian/release/12/latest/amd64"


def _without_a_validator() -> None:
    """CloudFormation imports all of moto, also API Gateway, whose validator of OpenAPI nobody needs here."""
    for name in ("", ".validation", ".validation.exceptions"):
        module = cast(Any, ModuleType(f"openapi_spec_validator{name}"))
        module.validate_spec = module.OpenAPIValidationError = module.OpenAPISpecValidator = Exception
        module.__path__ = []
        sys.modules[module.__name__] = module


def _with_debians_image() -> None:
    """Debian's parameter, which moto does not bring along; nobody may put parameters there."""
    from moto.ssm.models import Parameter, ssm_backends

    made: Any = Parameter(
        account_id=ACCOUNT,
        name=_IMAGE_PARAMETER,
        value=IMAGE,
        parameter_type="String",
        description="",
        allowed_pattern=None,
        keyid=None,
        last_modified_date=datetime.now(UTC),
        version=1,
        data_type="text",
    )  # type: ignore[abstract]
    ssm_backends[ACCOUNT]["us-east-1"]._parameters[_IMAGE_PARAMETER].append(made)


def _with_tagged_keys() -> None:
    """moto takes the tags of a key as KMS has them (TagKey), and not as CloudFormation has them (Key)."""
    from moto.kms.models import Key

    made: Any = Key.create_from_cloudformation_json

    def make(resource_name: str, template: dict[str, Any], *more: Any, **words: Any) -> Any:
        asked = template["Properties"]
        tags = [{"TagKey": one["Key"], "TagValue": one["Value"]} for one in asked.get("Tags", [])]
        return made(resource_name, {**template, "Properties": {**asked, "Tags": tags}}, *more, **words)

    Key.create_from_cloudformation_json = staticmethod(make)  # type: ignore[method-assign,assignment]


def main() -> None:
    _without_a_validator()
    _with_tagged_keys()
    from localcloud.aws.moto_backend import RequestHandler, application

    empty = application()
    _with_debians_image()
    server = make_server("127.0.0.1", 0, empty, threaded=True, request_handler=RequestHandler)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
