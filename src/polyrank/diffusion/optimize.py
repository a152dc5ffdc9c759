"""``optimize``: an ordinary diffusers pipeline, its answers unchanged, in less time."""

from __future__ import annotations

import logging
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import Tensor

from polyrank.diffusion.accelerated import Compiler
from polyrank.diffusion.attention import check_decoder, check_unet
from polyrank.diffusion.cores import SHRUNK, UNetCore, fast_decoder, fast_unet
from polyrank.diffusion.graphs import GraphedFunction, Last, unplanned
from polyrank.diffusion.pictures import to_pictures
from polyrank.diffusion.quick import TEXT_ENCODERS, quicken
from polyrank.diffusion.shared import SharedCore
from polyrank.diffusion.shrunk import can_shrink
from polyrank.diffusion.team import Share, Team
from polyrank.errors import UnsupportedPipeline

log = logging.getLogger("polyrank.diffusion")

# Steps that the host may be ahead of the GPU: enough to keep it busy, and few enough that a
# cancelled request ends soon and progress is told when it is made.
STEPS_AHEAD = 2


def optimize(
    pipeline: Any,
    *,
    graphs: bool = True,
    compile: bool = True,
    decode_in_16_bits: bool = True,
    cache: str | Path | None = None,
) -> Optimized:
    """Makes a pipeline with a UNet (SDXL, Stable Diffusion 1 and 2) fast, in place.

    Call it once, after the pipeline is on its device and LoRAs, if any, are fused. The pipeline is
    used as before. The pictures are those of the plain pipeline but for rounding.

    Args:
        pipeline: the diffusers pipeline.
        graphs: replay CUDA graphs, one per shape. The first call of a shape records it.
        compile: have the UNet and the decoder compiled in another process, once per machine and
            shape; the pipeline serves meanwhile and takes the result when the next picture begins.
        decode_in_16_bits: decode in float16 also where diffusers would go to float32 because the
            VAE overflows in float16; here it does not. Pictures are encoded in float32, as there.
        cache: folder of compiled code; ``POLYRANK_COMPILED`` or ``~/.cache/polyrank/compiled``.

    On a CPU only what needs neither graphs nor a compiler is done. Raises UnsupportedPipeline for
    a pipeline of another kind, before anything has been changed.

    Example::

        self.pipeline = StableDiffusionXLPipeline.from_pretrained(…).to(self.device)
        optimize(self.pipeline)
    """
    unet, vae = getattr(pipeline, "unet", None), getattr(pipeline, "vae", None)
    if not isinstance(unet, UNet2DConditionModel):
        raise UnsupportedPipeline(
            f"optimize() knows pipelines with a UNet2DConditionModel; {type(pipeline).__name__} "
            f"has {type(unet).__name__}"
        )
    check_unet(unet)
    if isinstance(vae, AutoencoderKL):
        check_decoder(vae)
    on_gpu = unet.device.type == "cuda"
    compiler = Compiler.in_folder(cache) if compile and on_gpu else None
    fast: list[SharedCore] = [FastUNet(unet, graphs=graphs and on_gpu, compiler=compiler).core]
    if isinstance(vae, AutoencoderKL):
        shrunk = decode_in_16_bits and _keep_in_16_bits(vae)
        decoder = FastDecoder(vae, shrunk=shrunk, graphs=graphs and on_gpu, compiler=compiler)
        fast.append(decoder.core)
    if graphs and on_gpu:
        for name in TEXT_ENCODERS:
            if (encoder := getattr(pipeline, name, None)) is not None:
                FastTextEncoder(encoder)
    optimized = Optimized(fast, compiler)
    _encode_on_device(pipeline)
    quicken(pipeline, optimized.request_compiled)
    return optimized


class Optimized:
    """What has become of a pipeline."""

    def __init__(self, cores: list[SharedCore], compiler: Compiler | None) -> None:
        self._cores = cores
        self._compiler = compiler

    def state(self) -> dict[str, dict[str, str]]:
        """For the UNet and the decoder: how each shape that was met runs."""
        return {each.name: each.state() for core in self._cores for each in core.all}

    def request_compiled(self) -> None:
        """Has what was met since the last time compiled, or loaded if it has been before."""
        for core in self._cores:
            for each in core.all:
                each.request_compiled()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Waits until all that is being compiled is ready; false if the time was not enough."""
        self.request_compiled()
        return self._compiler is None or self._compiler.wait(timeout_s)

    def close(self) -> None:
        """Ends what still compiles. The pipeline goes on as it is."""
        if self._compiler is not None:
            self._compiler.close()


class FastUNet:
    """Stands in for a UNet's ``forward``."""

    def __init__(
        self, unet: UNet2DConditionModel, *, graphs: bool, compiler: Compiler | None
    ) -> None:
        self._unet = unet
        self._text_projection = fast_unet(unet)
        self._last_text = Last()
        self._keys_values: Tensor
        added = ("text_embeds", "time_ids") if unet.config.addition_embed_type else ()
        self._added = added
        self.core = SharedCore(
            "unet",
            UNetCore(unet, added),
            dict(unet.config),
            added=added,
            graphs=graphs,
            compiler=compiler,
        )
        self._ahead: deque[torch.cuda.Event] = deque()
        self._multiple = 2 ** (len(unet.config.block_out_channels) - 1)
        self._text_share: Share | None = None
        self._teams: dict[tuple[dist.ProcessGroup, bool], Team] = {}
        unet.forward = self

    def team(self, group: dist.ProcessGroup | None, *, symmetric: bool) -> Team:
        """The ranks of a group as a team, the same one every time.

        It is kept: memory that GPUs see of each other cannot be freed while a graph is recorded.
        """
        key = (group or dist.group.WORLD, symmetric)
        if key not in self._teams:
            self._teams[key] = Team(key[0], self._unet.device, symmetric=symmetric)
        return self._teams[key]

    def share(self, team: Team | None) -> None:
        """From the next call on the team's ranks compute a part each; None: no more."""
        self.core.share(team)
        self._last_text = Last()

    def __call__(
        self,
        sample: Tensor,
        timestep: Tensor | float | int,
        encoder_hidden_states: Tensor,
        *,
        added_cond_kwargs: dict[str, Tensor] | None = None,
        return_dict: bool = True,
        **others: Any,
    ) -> Any:
        """The UNet's output, as diffusers' own ``forward`` gives it."""
        others = {name: value for name, value in others.items() if value is not None}
        if "attention_mask" in others or "encoder_attention_mask" in others:
            raise UnsupportedPipeline("an optimized UNet takes no attention masks")
        added = added_cond_kwargs or {}
        plain = not others and set(added) == set(self._added) and isinstance(timestep, Tensor)
        # Each rank computes the whole of what is not shared.
        share = self.core.part_of(sample, self._multiple) if plain else None
        if not self._last_text.is_now(encoder_hidden_states) or share != self._text_share:
            self._begin(encoder_hidden_states, share)
        if not plain:
            # ControlNets and the like: the same work, called as it stands.
            output = type(self._unet).forward(
                self._unet,
                sample,
                timestep,
                self._keys_values,
                added_cond_kwargs=added_cond_kwargs,
                return_dict=False,
                **others,
            )[0]
        else:
            self._hold_back(sample.device)
            named = [added[name] for name in self._added]
            if share is not None:
                named = [share.of_batch(each) for each in named]
            output = self.core(share, sample, timestep, self._keys_values, *named)
        return UNet2DConditionOutput(sample=output) if return_dict else (output,)

    def _begin(self, text: Tensor, share: Share | None) -> None:
        """Another text: another picture begins."""
        self.core.refresh(share)
        self._text_share = share
        if share is not None:
            text = share.of_batch(text)
        empty = (text == 0).flatten(1).all(1)
        # Asked once per picture: this is the only wait for the GPU before its last step.
        textless = int(empty.int().cumprod(0).sum())
        self._keys_values = self._text_projection(text[textless:])

    def _hold_back(self, device: torch.device) -> None:
        if device.type != "cuda":
            return
        if len(self._ahead) == STEPS_AHEAD:
            self._ahead.popleft().synchronize()
        event = torch.cuda.Event(blocking=True)
        event.record()
        self._ahead.append(event)


class FastTextEncoder:
    """Stands in for a text encoder's ``forward``: many small kernels, replayed as one graph."""

    def __init__(self, encoder: Any) -> None:
        self._stock = encoder.forward
        encode = unplanned(lambda ids: self._stock(ids, output_hidden_states=True))
        self._recorded = GraphedFunction(encode)
        self._records = True
        encoder.forward = self

    def __call__(self, input_ids: Tensor, *rest: Any, **named: Any) -> Any:
        """The encoder's output, with all of its hidden states."""
        plain = not rest and all(
            value is None for name, value in named.items() if name != "output_hidden_states"
        )
        if self._records and plain and input_ids.device.type == "cuda":
            try:
                return self._recorded(input_ids)
            except RuntimeError:
                # Encoders of other libraries may wait for the GPU, which cannot be recorded.
                log.warning("a text encoder cannot be recorded and runs as it is", exc_info=True)
                self._records = False
        return self._stock(input_ids, *rest, **named)


class FastDecoder:
    """Stands in for a VAE's ``decode``."""

    def __init__(
        self, vae: AutoencoderKL, *, shrunk: bool, graphs: bool, compiler: Compiler | None
    ) -> None:
        self._vae = vae
        self._stock = vae.decode
        self.core = SharedCore(
            "decoder",
            fast_decoder(vae, shrunk=shrunk),
            {**vae.config, SHRUNK: shrunk},
            graphs=graphs,
            compiler=compiler,
        )
        vae.decode = self

    def share(self, team: Team | None) -> None:
        """From the next call on the team's ranks decode a part each; None: no more."""
        self.core.share(team)

    def __call__(self, z: Tensor, return_dict: bool = True, generator: Any = None) -> Any:
        """The picture, as diffusers' own ``decode`` gives it."""
        vae = self._vae
        z = z.to(vae.decoder.conv_in.weight.dtype)
        if vae.use_tiling or vae.use_slicing:
            return self._stock(z, return_dict=return_dict)
        share = self.core.part_of(z, or_whole=True)
        self.core.refresh(share)
        picture = self.core(share, z)
        return SimpleNamespace(sample=picture) if return_dict else (picture,)


def _keep_in_16_bits(vae: AutoencoderKL) -> bool:
    """Keeps a pipeline from moving a VAE that overflows in float16 to float32 and back.

    What encodes pictures stays in float32. True if the decoder has to be shrunk from now on.
    """
    if vae.dtype != torch.float16 or not vae.config.force_upcast:
        return False
    if not can_shrink(vae.decoder):
        vae.to(torch.bfloat16)
        return False
    vae.register_to_config(force_upcast=False)
    vae.encoder.float()
    if vae.quant_conv is not None:
        vae.quant_conv.float()
    stock = vae.encode

    def encode(pictures: Tensor, return_dict: bool = True) -> Any:
        return stock(pictures.to(vae.encoder.conv_in.weight.dtype), return_dict=return_dict)

    vae.encode = encode
    return True


def _encode_on_device(pipeline: Any) -> None:
    """Pictures leave the device as bytes, not as floats."""
    processor = pipeline.image_processor
    stock = processor.postprocess

    def postprocess(
        image: Tensor, output_type: str = "pil", do_denormalize: list[bool] | None = None
    ) -> Any:
        if output_type != "pil" or not isinstance(image, Tensor):
            return stock(image, output_type=output_type, do_denormalize=do_denormalize)
        return to_pictures(stock(image, output_type="pt", do_denormalize=do_denormalize))

    processor.postprocess = postprocess
