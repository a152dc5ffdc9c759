"""The smallest app. Run it with ``polyrank run examples/hello.py``."""

from pydantic import BaseModel

from polyrank import App, endpoint


class Name(BaseModel):
    name: str = "world"


class Greeting(BaseModel):
    text: str


class Hello(App):
    def setup(self) -> None:
        self.greeting = "Hello"

    @endpoint("/")
    def greet(self, request: Name) -> Greeting:
        return Greeting(text=f"{self.greeting}, {request.name}!")
