"""An app that counts what it does with prometheus_client."""

from prometheus_client import Counter
from pydantic import BaseModel

import polyrank

PIXELS = Counter("painted_pixels", "Pixels painted.", ["application"])


class Size(BaseModel):
    pixels: int


class CountingApp(polyrank.App):
    app_name = "counting"

    @polyrank.endpoint("/")
    def paint(self, size: Size) -> dict[str, int]:
        PIXELS.labels("of the app's own").inc(size.pixels)
        return {"pixels": size.pixels}
