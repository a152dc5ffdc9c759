"""An app that downloads in its setup, and tells what it finds around itself."""

import os

from pydantic import BaseModel

import polyrank
from polyrank.toolkit import download_model_weights


class Output(BaseModel):
    size: int
    app_name: str
    state: str


class WeightsApp(polyrank.App):
    def setup(self) -> None:
        self.report_loading(0.25, "looking for weights")
        self.path = download_model_weights(os.environ["WEIGHTS_URL"])

    @polyrank.endpoint("/")
    def look(self) -> Output:
        size = self.path.stat().st_size
        return Output(
            size=size,
            app_name=os.environ["FAL_APP_NAME"],
            state=os.environ["FAL_RUNNER_STATE"],
        )
