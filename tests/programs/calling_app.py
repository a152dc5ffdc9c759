"""An app that calls an app: itself, by the server."""

from typing import Any

import fal_client
from pydantic import BaseModel

import polyrank
import polyrank.client


class Number(BaseModel):
    number: int


class CallingApp(polyrank.App):
    max_multiplexing = 2

    @polyrank.endpoint("/")
    def call(self, request: Number) -> dict[str, Any]:
        arguments = {"number": request.number}
        theirs = fal_client.submit("local/calling-app", arguments, path="/double").get()
        ours = polyrank.client.subscribe("local/calling-app", theirs, path="/double")
        return {"number": ours.number, "url": fal_client.upload(b"kept", "text/plain")}

    @polyrank.endpoint("/double")
    def double(self, request: Number) -> Number:
        return Number(number=2 * request.number)
