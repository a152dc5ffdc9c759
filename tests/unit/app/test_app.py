"""App classes: options are checked where they are written."""

import pytest

from polyrank import App, endpoint
from polyrank.errors import AppError


def test_options_come_from_attributes_and_keywords() -> None:
    class Painter(App, keep_alive=300, name="brush"):
        machine_type = "GPU-H100"
        num_gpus = 2

    assert Painter.options.keep_alive == 300
    assert Painter.options.machine_type == "GPU-H100"
    assert Painter.app_name == "brush"
    assert Painter().num_gpus == 2


def test_options_are_inherited_and_can_be_overridden() -> None:
    class Base(App):
        num_gpus = 4
        max_multiplexing = 8

    class Child(Base, num_gpus=1):
        pass

    assert (Child.options.num_gpus, Child.options.max_multiplexing) == (1, 8)
    assert Child().num_gpus == 1


def test_a_name_is_made_from_the_class() -> None:
    class MySDXLApp(App):
        pass

    assert MySDXLApp.app_name == "my-sdxl-app"


def test_an_unknown_keyword_is_refused_with_a_suggestion() -> None:
    with pytest.raises(AppError, match="no option 'keepalive'; did you mean 'keep_alive'"):

        class Painter(App, keepalive=300):  # type: ignore[call-arg]
            pass


def test_a_misspelt_attribute_is_refused_and_ones_own_are_not() -> None:
    with pytest.raises(AppError, match="num_gpu is not an option; did you mean 'num_gpus'"):

        class Painter(App):
            num_gpu = 2

    class Fine(App):
        model_name = "sdxl"
        step_count = 20


def test_a_wrong_value_names_the_option() -> None:
    with pytest.raises(AppError, match="options of Painter: num_gpus"):

        class Painter(App):
            num_gpus = -1


def test_two_endpoints_on_one_path_are_refused() -> None:
    with pytest.raises(AppError, match="both answer /"):

        class Painter(App):
            @endpoint("/")
            def one(self) -> None: ...

            @endpoint("/")
            def two(self) -> None: ...


def test_an_app_is_an_ordinary_object() -> None:
    class Adder(App):
        def __init__(self, start: int) -> None:
            self.start = start

        @endpoint("/")
        def add(self, number: int) -> int:
            return self.start + number

    assert Adder(2).add(3) == 5


def test_a_name_that_an_app_needs_itself_is_refused() -> None:
    with pytest.raises(AppError, match="Painter.options: an App keeps its own"):

        class Painter(App):
            options = {"a": 1}  # type: ignore[assignment]
