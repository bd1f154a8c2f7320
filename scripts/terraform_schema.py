"""Writes down what Terraform's AWS provider takes, for the kinds of things that deploy/terraform makes.

The provider itself is no package of PyPI or npm, but its generated bindings are: `npm pack @cdktn/provider-aws` (6.x)
or `npm pack @cdktf/provider-aws` (5.x), MPL-2.0. They hold each argument's name, whether it must be given, its type,
and each attribute that can be read. Only these facts are taken over. When deploy/terraform makes a thing of another
kind:

    npm pack @cdktn/provider-aws && tar -xzf cdktn-provider-aws-*.tgz
    python -m scripts.terraform_schema package

writes tests/unit/terraform_provider/VERSION.json, which tests/unit/test_terraform_arguments.py reads.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TERRAFORM = ROOT / "deploy/terraform"
KEPT = ROOT / "tests/unit/terraform_provider"
_INTERFACE = re.compile(r"^export interface (\w+)[^{\n]*\{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
_ARGUMENT = re.compile(r"/\S+ \w+#(\w+)\}(?:(?!\*/).)*?\*/\s*readonly \w+(\??): ([^;]+);", re.DOTALL)
_READ = re.compile(r"\.get\w+Attribute\(['\"](\w+)['\"]\)|(?:List|Map|OutputReference)\(this, ['\"](\w+)['\"]")
_PLAIN = {"string": "one", "number": "one", "boolean": "one"}


def kinds(text: str) -> set[str]:
    """What `text` makes and looks up: `aws_kms_key`, `data.aws_region`."""
    found = re.findall(r'^(resource|data) "(aws_\w+)"', text, re.MULTILINE)
    return {f"data.{kind}" if word == "data" else kind for word, kind in found}


def schema(package: Path, kind: str) -> dict[str, Any]:
    """What `kind` takes, by the bindings in `package`: `arguments` (name: "one", "many", "map" or "block"), `required`,
    `blocks` (the same of each), `single` (blocks that may stand once), `read` (names of attributes)."""
    name = kind.replace("data.aws_", "data_aws_").removeprefix("aws_").replace("_", "-")
    folder = package / "lib" / name
    types = "".join(path.read_text() for path in sorted(folder.glob("*.d.ts")))
    interfaces = dict(_INTERFACE.findall(types))
    top = next(
        name for name in interfaces if name.endswith("Config") and "TerraformMetaArguments" in _head(types, name)
    )
    found = _block(interfaces, top)
    code = (folder / "index.js").read_text()
    own = code[re.search(r"^class \w+ extends cdkt[fn]\.Terraform(Resource|DataSource)", code, re.MULTILINE).start() :]  # type: ignore[union-attr]
    found["read"] = sorted({one or other for one, other in _READ.findall(own)} | set(found["arguments"]))
    return found


def _head(types: str, name: str) -> str:
    return next(line for line in types.splitlines() if line.startswith(f"export interface {name} "))


def _block(interfaces: dict[str, str], name: str) -> dict[str, Any]:
    found: dict[str, Any] = {"arguments": {}, "required": [], "blocks": {}, "single": []}
    for argument, optional, type_ in _ARGUMENT.findall(interfaces[name]):
        first = type_.split("|")[0].strip()
        inner = first.removesuffix("[]")
        if inner in interfaces:
            found["arguments"][argument] = "block"
            found["blocks"][argument] = _block(interfaces, inner)
            if not first.endswith("[]"):
                found["single"].append(argument)
        else:
            found["arguments"][argument] = _PLAIN.get(first) or ("map" if "key: string" in first else "many")
        if not optional:
            found["required"].append(argument)
    return {key: value for key, value in found.items() if value or key == "arguments"}


def main() -> None:
    package = Path(sys.argv[1])
    version = json.loads((package / "package.json").read_text())["cdktf"]["provider"]["version"]
    text = "".join(path.read_text() for path in TERRAFORM.glob("*.tf"))
    lines = [f"{json.dumps(kind)}: {json.dumps(schema(package, kind), sort_keys=True)}" for kind in sorted(kinds(text))]
    KEPT.mkdir(exist_ok=True)
    (KEPT / f"{version}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
