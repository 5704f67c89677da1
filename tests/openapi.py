"""The OpenAPI document as a judge of what a server answers, and a list of what was seen of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Set
from functools import cached_property
from typing import Any
from urllib.parse import unquote

import requests
import yaml
from jsonschema import Draft202012Validator

from tests.harness.client import Client
from tests.harness.process import REPOSITORY

DOCUMENT = REPOSITORY / "docs" / "openapi.yaml"
BASE = "/_synapse/rejection_repair"

Seen = tuple[str, str, str]
"""A path as the document has it, a method in lower case, and a status or `default`."""


class Contract:
    """The document, and which of its answers have been seen."""

    def __init__(
        self, document: Mapping[str, Any] | None = None, tags: Set[str] | None = None
    ) -> None:
        """Args:
        document: The document; None for the project's.
        tags: The tags of the operations that are looked at; None for all.
        """
        self.document = document or yaml.safe_load(DOCUMENT.read_text())
        self.tags = tags
        self.seen: set[Seen] = set()

    @cached_property
    def documented(self) -> set[Seen]:
        """Every answer that the document speaks of."""
        return {
            (path, method, status)
            for path, method, operation in self.operations()
            for status in operation["responses"]
        }

    def operations(self) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
        """Every path with a method and what the document says of it."""
        for path, item in self.document["paths"].items():
            for method, operation in item.items():
                if self.tags is None or not self.tags.isdisjoint(operation["tags"]):
                    yield path, method, operation

    def match(self, path: str) -> str | None:
        """The path of the document that a path below the base is an instance of."""
        for template in self.document["paths"]:
            pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(template))
            if re.fullmatch(pattern, path):
                return str(template)
        return None

    def check(self, method: str, path: str, response: requests.Response) -> None:
        """Fails unless an answer is one that the document speaks of.

        Args:
            method: The request's method.
            path: Its path below the base, without the query.
            response: The answer.
        """
        method, status = method.lower(), str(response.status_code)
        what = f"{method} {path}: {status} {response.text[:2000]}"
        assert response.headers["Content-Type"] == "application/json", what
        assert response.headers["Access-Control-Allow-Origin"] == "*", what

        head, method = method == "head", "get" if method == "head" else method
        answer = self._answer(method, path, status)
        assert answer is not None, f"not in the document: {what}"
        if head:
            assert response.content == b"", what
            return
        schema = self._resolve(answer)["content"]["application/json"]["schema"]
        self.validate(response.json(), schema, what)

    def _answer(self, method: str, path: str, status: str) -> Mapping[str, Any] | None:
        template = self.match(path)
        responses = self.document["components"]["responses"]
        if template is None:
            # What is said of everybody comes before what is said of paths.
            names = {"401": "Unauthorized", "403": "Forbidden", "503": "Unavailable"}
            return responses.get(names.get(status, "Unrecognized" if status == "404" else ""))
        operations = self.document["paths"][template]
        if method not in operations:
            # Only these are answered to methods that the path does not have.
            if status not in ("401", "403", "405", "503"):
                return None
            self.seen.update((template, known, status) for known in operations)
            return next(iter(operations.values()))["responses"].get(status)
        self.seen.add((template, method, status))
        found: Mapping[str, Any] | None = operations[method]["responses"].get(status)
        return found

    def request_errors(
        self, method: str, path: str, query: Mapping[str, str], body: object | None
    ) -> list[str]:
        """What the document has against a request.

        Args:
            method: Its method.
            path: Its path below the base, without the query.
            query: Its query.
            body: Its body; None if it has none.
        """
        template = self.match(path)
        operation = self.document["paths"].get(template, {}).get(method.lower())
        if template is None or operation is None:
            return ["there is no such operation"]
        errors = []
        names = re.findall(r"\{(\w+)\}", template)
        pattern = re.sub(r"\\\{\w+\\\}", "([^/]+)", re.escape(template))
        found = re.fullmatch(pattern, path)
        assert found is not None
        given = {"path": dict(zip(names, map(unquote, found.groups()), strict=True))}
        given["query"] = dict(query)
        for parameter in map(self._resolve, operation.get("parameters", ())):
            text = given[parameter["in"]].pop(parameter["name"], None)
            if text is None:
                errors += ["missing"] if parameter.get("required") else []
                continue
            schema = self._resolve(parameter["schema"])
            integer = schema.get("type") == "integer" and re.fullmatch(r"-?\d{1,20}", text)
            errors += self.errors(int(text) if integer else text, schema)
        errors += [f"unknown: {name}" for name in given["query"]]
        if body is not None:
            content = operation.get("requestBody", {}).get("content", {})
            schema = content.get("application/json", {}).get("schema", False)
            errors += self.errors(body, schema)
        return errors

    def validate(self, value: object, schema: object, what: str = "") -> None:
        """Fails unless a value is as a schema of the document wants it."""
        errors = self.errors(value, schema)
        assert not errors, "\n".join([what, *errors])

    def errors(self, value: object, schema: object) -> list[str]:
        """What a schema of the document has against a value."""
        # The document is no schema, but with one beside it its own references find their ends.
        validator = Draft202012Validator({**self.document, "allOf": [schema]})
        return [f"{e.json_path}: {e.message}" for e in validator.iter_errors(value)]

    def _resolve(self, value: Mapping[str, Any]) -> Mapping[str, Any]:
        reference = value.get("$ref")
        if reference is None:
            return value
        found: Any = self.document
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
        return self._resolve(found)


class Judge:
    """Makes calls, and holds every one of them against the document, on both sides."""

    def __init__(self, contract: Contract, client: Client) -> None:
        self.contract = contract
        self.client = client

    def call(
        self,
        method: str,
        path: str,
        *,
        json: object | None = None,
        params: Mapping[str, str] | None = None,
        data: bytes | None = None,
        headers: Mapping[str, str | None] | None = None,
    ) -> requests.Response:
        """Makes a call below the base; fails where the document and the server do not agree.

        They agree if the answer is as the document says, and if the server takes a request
        where the document has nothing against it, and only there.
        """
        response = self.client.response(
            method, BASE + path, json=json, params=params, data=data, headers=headers
        )
        self.contract.check(method, path, response)
        if method in ("GET", "POST") and response.status_code in (200, 400) and data is None:
            errors = self.contract.request_errors(method, path, params or {}, json)
            what = f"{method} {path} {params} {json}: {response.text[:500]}"
            assert (response.status_code == 200) == (not errors), f"{what}\n{errors}"
        return response

    def ok(self, method: str, path: str, json: object | None = None, **params: str) -> Any:
        """Makes a call that succeeds, and returns the JSON that is answered."""
        response = self.call(method, path, json=json, params=params)
        assert response.status_code == 200, response.text
        return response.json()

    def refused(
        self,
        status: int,
        errcode: str,
        method: str,
        path: str,
        json: object | None = None,
        *,
        data: bytes | None = None,
        headers: Mapping[str, str | None] | None = None,
        **params: str,
    ) -> str:
        """Makes a call that is refused, and returns the sentence that says why."""
        response = self.call(method, path, json=json, params=params, data=data, headers=headers)
        answer = response.json()
        assert (response.status_code, answer["errcode"]) == (status, errcode), response.text
        sentence: str = answer["error"]
        return sentence


def dumps(value: object) -> str:
    """JSON for people."""
    return json.dumps(value, indent=2, ensure_ascii=False)
