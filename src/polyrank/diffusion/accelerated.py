"""A core that is fast: recorded as CUDA graphs at once, and from compiled code when that is ready."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polyrank.diffusion.artifacts import ArtifactCache, Recipe
from polyrank.diffusion.graphs import GraphedFunction, Signature, TensorFunction, signature

log = logging.getLogger("polyrank.diffusion")


class Compiler:
    """Has cores compiled in processes of their own, and loads what they make."""

    def __init__(self, cache: ArtifactCache) -> None:
        self._cache = cache
        self._threads: list[threading.Thread] = []
        self._processes: list[subprocess.Popen[str]] = []
        self._lock = threading.Lock()
        self._closed = False

    def request(self, recipe: Recipe, on_ready: Callable[[Path], None]) -> None:
        """Calls ``on_ready`` with the recipe's artifact, from a thread, once it is there."""
        path = self._cache.path(recipe)
        if path.exists():
            on_ready(path)
            return
        thread = threading.Thread(
            target=self._make, args=(recipe, on_ready), name="polyrank-compile", daemon=True
        )
        self._threads.append(thread)
        thread.start()

    def _make(self, recipe: Recipe, on_ready: Callable[[Path], None]) -> None:
        begun = time.monotonic()
        command = [sys.executable, "-m", "polyrank.diffusion.compile", str(self._cache.folder)]
        with self._lock:
            if self._closed:
                return
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            self._processes.append(process)
        assert process.stdin is not None and process.stderr is not None
        process.stdin.write(recipe.to_json() + "\n")
        process.stdin.flush()  # and left open: the process ends when it closes
        stderr = process.stderr.read()
        process.wait()
        if process.returncode == 0:
            log.info("compiled the %s in %.0f s", recipe.kind, time.monotonic() - begun)
            on_ready(self._cache.path(recipe))
        elif not self._closed:
            tail = "\n".join(stderr.splitlines()[-30:])
            log.warning(
                "the %s could not be compiled and stays as it is; the compiler said:\n%s",
                recipe.kind,
                tail,
            )

    def wait(self, timeout_s: float | None = None) -> bool:
        """Waits for everything that was asked for; false if the time was not enough."""
        until = None if timeout_s is None else time.monotonic() + timeout_s
        for thread in list(self._threads):
            thread.join(None if until is None else max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def close(self) -> None:
        """Ends what still compiles."""
        with self._lock:
            self._closed = True
            for process in self._processes:
                process.kill()
        self.wait()


@dataclass
class Plan:
    """How a core is run for one signature of inputs."""

    run: TensorFunction
    compiled: Path | None = None
    swapped: bool = False
    recipe: Recipe | None = field(default=None, repr=False)


class AcceleratedCore:
    """A core, run in the fastest way that is ready for the inputs at hand.

    On a CPU that is the core itself. On a GPU it is a graph of the core, and once ``compiler`` has
    made code for these inputs, a graph of that. The change is made by ``refresh`` only, so that
    the caller can keep it out of the middle of a picture.
    """

    def __init__(
        self,
        kind: str,
        core: nn.Module,
        config: dict[str, Any],
        *,
        added: tuple[str, ...] = (),
        graphs: bool = True,
        compiler: Compiler | None = None,
    ) -> None:
        self.kind = kind
        self._core = core
        self._config = config
        self._added = added
        self._graphs = graphs
        self._compiler = compiler
        self._plans: dict[Signature, Plan] = {}
        self._eager: TensorFunction = GraphedFunction(core) if graphs else core

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the core's weights."""
        return next(self._core.parameters()).dtype

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The core's output."""
        if inputs[0].device.type != "cuda":
            output: Tensor = self._core(*inputs)
            return output
        plan = self._plans.get(signature(inputs))
        if plan is None:
            plan = self._plans[signature(inputs)] = self._plan(inputs)
            self._refresh(plan)
        return plan.run(*inputs)

    def refresh(self) -> None:
        """Takes compiled code into use where it has become ready."""
        for plan in self._plans.values():
            self._refresh(plan)

    def state(self) -> dict[str, str]:
        """For every shape of the first input: how it runs."""
        base = "graph" if self._graphs else "eager"
        return {
            "x".join(map(str, key[0][0])): f"compiled {base}" if plan.swapped else base
            for key, plan in self._plans.items()
        }

    def _plan(self, inputs: tuple[Tensor, ...]) -> Plan:
        plan = Plan(self._eager)
        if self._compiler is not None:
            plan.recipe = Recipe.of(self.kind, self._config, self._added, self.dtype, inputs)

            def on_ready(path: Path) -> None:
                plan.compiled = path

            self._compiler.request(plan.recipe, on_ready)
        return plan

    def _refresh(self, plan: Plan) -> None:
        if plan.compiled is None or plan.swapped:
            return
        plan.swapped = True
        try:
            compiled = load_compiled(plan.compiled, self._core)
        except Exception:
            log.warning("the compiled %s cannot be used", self.kind, exc_info=True)
            plan.compiled = None
            return
        plan.run = GraphedFunction(compiled) if self._graphs else compiled


def load_compiled(path: Path, core: nn.Module) -> TensorFunction:
    """The artifact at ``path`` as a function that uses the weights of ``core``, where they are."""
    device = next(core.parameters()).device
    # Without locks of its own, which a graph cannot record.
    model = torch._inductor.aoti_load_package(
        str(path),
        run_single_threaded=True,
        device_index=device.index if device.type == "cuda" else -1,
    )
    weights = core.state_dict(keep_vars=True)
    needed = {name: weights[name].data for name in model.get_constant_fqns()}
    model.load_constants(needed, check_full_update=True, user_managed=True)

    def run(*inputs: Tensor) -> Tensor:
        output = model(*inputs)
        result: Tensor = output[0] if isinstance(output, list | tuple) else output
        return result

    return run
