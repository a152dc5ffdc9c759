"""A core that is fast: CUDA graphs of it at once, and of compiled code when that is ready."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polyrank.diffusion import hopper
from polyrank.diffusion.artifacts import CODE, TUNING, WEIGHTS, ArtifactCache, Recipe
from polyrank.diffusion.cores import lend_weights
from polyrank.diffusion.graphs import (
    URGENT,
    GraphedFunction,
    Signature,
    TensorFunction,
    signature,
    unplanned,
)
from polyrank.settings import DiffusionSettings

log = logging.getLogger("polyrank.diffusion")

# Moves of its weights after which a core is not recorded any more.
MAX_MOVES = 3


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
        thread = threading.Thread(
            target=self._provide, args=(recipe, on_ready), name="polyrank-compile", daemon=True
        )
        self._threads.append(thread)
        thread.start()

    def _provide(self, recipe: Recipe, on_ready: Callable[[Path], None]) -> None:
        provided = self._try(recipe, on_ready)
        if not provided and recipe.on_hopper and not self._closed:
            log.warning("the %s goes without the kernels of polyrank[hopper]", recipe.kind)
            self._try(recipe.without_kernels(), on_ready)

    def _try(self, recipe: Recipe, on_ready: Callable[[Path], None]) -> bool:
        path = self._cache.path(recipe)
        try:
            if not path.exists() and not self._make(recipe):
                return False
            if recipe.on_hopper:
                device, dtype = torch.device(recipe.device), getattr(torch, recipe.dtype)
                hopper.prepare(self._cache.kernels, device, dtype)
            on_ready(path)
        except Exception:
            log.warning("the compiled %s cannot be used", recipe.kind, exc_info=True)
            return False
        return True

    def _make(self, recipe: Recipe) -> bool:
        begun = time.monotonic()
        command = [sys.executable, "-m", "polyrank.diffusion.compile", str(self._cache.folder)]
        with self._lock:
            if self._closed:
                return False
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            self._processes.append(process)
        assert process.stdin is not None and process.stderr is not None
        with process.stdin, process.stderr:  # the process ends when its stdin closes
            process.stdin.write(recipe.to_json() + "\n")
            process.stdin.flush()
            last_words = deque(process.stderr, maxlen=40)
            process.wait()
        if process.returncode != 0 and not self._closed:
            log.warning(
                "the %s could not be compiled and stays as it is; the compiler said:\n%s",
                recipe.kind,
                "".join(last_words),
            )
        elif process.returncode == 0:
            log.info("compiled the %s in %.0f s", recipe.kind, time.monotonic() - begun)
        return process.returncode == 0

    def wait(self, timeout_s: float | None = None) -> bool:
        """Waits for everything that was asked for; false if the time was not enough."""
        until = None if timeout_s is None else time.monotonic() + timeout_s
        for thread in list(self._threads):
            thread.join(None if until is None else max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    @classmethod
    def in_folder(cls, folder: str | Path | None) -> Compiler:
        """A compiler whose artifacts are kept in ``folder``, by default where the settings say."""
        chosen = DiffusionSettings().compiled if folder is None else Path(folder)
        return cls(ArtifactCache(chosen.expanduser()))

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
    is_compiled: bool = False
    # Set from the compiler's thread.
    compiled: TensorFunction | None = None


class AcceleratedCore:
    """A core, run in the fastest way that is ready for the inputs at hand.

    On a CPU that is the core itself. On a GPU it is a graph of the core, and once ``compiler`` has
    made code for these inputs, a graph of that. The change is made by ``refresh`` only, so that
    the caller can keep it out of the middle of a picture; and the code is asked for by
    ``request_compiled``, as loading it keeps Python busy for seconds that a picture would wait.
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
        priority: int = URGENT,
        ranks: int = 1,
    ) -> None:
        self.kind = kind
        self._ranks = ranks
        self._priority = priority
        self._core = core
        self._config = config
        self._added = added
        self._graphs = graphs
        self._compiler = compiler
        self._plans: dict[Signature, Plan] = {}
        self._wanted: list[tuple[Recipe, Callable[[Path], None]]] = []
        self._weight = next(core.parameters())
        self._weight_at = self._weight.data_ptr()
        self._moves = 0
        self._eager = self._meanwhile()

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The core's output."""
        if inputs[0].device.type != "cuda":
            output: Tensor = self._core(*inputs)
            return output
        self._forget_moved()
        key = signature(inputs)
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = self._plan(inputs)
        return plan.run(*inputs)

    def refresh(self, agree: Callable[[bool], bool] = bool) -> None:
        """Takes compiled code into use where it has become ready.

        Ranks that exchange something in it have to do so at the same time: ``agree`` tells whether
        what is ready here is so everywhere, and is asked the same questions on every rank.
        """
        if self._compiler is None:
            return
        self.request_compiled()
        for plan in self._plans.values():
            compiled = plan.compiled
            if not plan.is_compiled and agree(compiled is not None) and compiled is not None:
                plan.run, plan.compiled = self._recorded(compiled), None
                plan.is_compiled = True

    def request_compiled(self) -> None:
        """Has the compiler provide what the inputs that were met need; between pictures."""
        wanted, self._wanted = self._wanted, []
        for recipe, on_ready in wanted:
            if self._compiler is not None:
                self._compiler.request(recipe, on_ready)

    @property
    def name(self) -> str:
        """What it is, and among how many ranks it is divided."""
        return self.kind if self._ranks == 1 else f"{self.kind}, rows of {self._ranks} ranks"

    def state(self) -> dict[str, str]:
        """For every shape of the first input: how it runs."""
        base = "graph" if self._graphs else "eager"
        return {
            "x".join(map(str, key[0][0])): f"compiled, {base}" if plan.is_compiled else base
            for key, plan in self._plans.items()
        }

    def _meanwhile(self) -> TensorFunction:
        """The core as it is; for a few pictures only, where there is a compiler."""
        is_short = self._compiler is not None
        return self._recorded(unplanned(self._core) if is_short else self._core)

    def _recorded(self, function: TensorFunction) -> TensorFunction:
        return GraphedFunction(function, self._priority) if self._graphs else function

    def _forget_moved(self) -> None:
        """Graphs read weights where they were; ``pipeline.to`` and the like move them."""
        if self._weight.data_ptr() == self._weight_at:
            return
        self._weight_at = self._weight.data_ptr()
        self._moves += 1
        self._plans.clear()
        self._wanted.clear()
        if self._moves == MAX_MOVES:
            log.warning("the %s is moved again and again, so it runs as it is", self.kind)
            self._graphs, self._compiler = False, None
        self._eager = self._meanwhile()

    def _plan(self, inputs: tuple[Tensor, ...]) -> Plan:
        plan = Plan(self._eager)
        if self._compiler is not None:
            dtype = self._weight.dtype
            recipe = Recipe.of(self.kind, self._config, self._added, dtype, inputs, self._ranks)

            def on_ready(artifact: Path) -> None:
                plan.compiled = load_compiled(artifact, self._core)

            self._wanted.append((recipe, on_ready))
        return plan


def load_compiled(artifact: Path, core: nn.Module) -> TensorFunction:
    """The artifact as a function that uses the weights of ``core``."""
    import torch._inductor  # takes a second, and is needed on GPUs only

    names = json.loads((artifact / WEIGHTS).read_text())
    weights = lend_weights(core, names)
    if (artifact / TUNING).exists():
        torch.compiler.load_cache_artifacts((artifact / TUNING).read_bytes())
    code = torch._inductor.CompiledArtifact.load(path=str(artifact / CODE), format="binary")

    def run(*inputs: Tensor) -> Tensor:
        output: Tensor = code(*weights, *inputs)[0]
        return output

    return run
