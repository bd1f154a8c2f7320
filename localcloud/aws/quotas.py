"""Service Quotas in front of moto, which knows those of VPC alone: the values that AWS gives a grown account.

Source: Service Quotas API reference, GetServiceQuota; the defaults are those of the EC2 and EBS user guides.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from localcloud.aws.ec2_wire import Application, Environ, StartResponse, read_body, respond, respond_json

_GET = "ServiceQuotasV20190624.GetServiceQuota"


class QuotasApi:
    """A WSGI application in front of another. `values`: by code; a test may change them."""

    def __init__(self, app: Application) -> None:
        self._app = app
        self.values: dict[str, float] = {
            "L-34B43A08": 640.0,  # vCPUs on Spot, standard families
            "L-3819A6DF": 64.0,  # vCPUs on Spot, G and VT
            "L-7A658B76": 50.0,  # TiB of gp3
            "L-309BACF6": 100_000.0,  # snapshots
        }

    def __call__(self, environ: Environ, start: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        if environ.get("HTTP_X_AMZ_TARGET") != _GET:
            return self._app(environ, start)
        asked: dict[str, Any] = json.loads(read_body(environ) or b"{}")
        code = str(asked.get("QuotaCode", ""))
        if code not in self.values:
            problem = {"__type": "NoSuchResourceException", "Message": f"There is no quota {code[:40]}."}
            return respond(start, json.dumps(problem).encode(), 400, "application/x-amz-json-1.1")
        quota = {"ServiceCode": asked.get("ServiceCode"), "QuotaCode": code, "Value": self.values[code]}
        return respond_json(start, {"Quota": quota})
