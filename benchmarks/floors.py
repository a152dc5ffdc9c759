"""What no program can go below, and what others have reached: columns of the benchmarks' tables.

The floor of a picture is its floating-point operations over what a plain product runs at:

    (steps x UNet's + decoder's + text encoders') / (790e12 x GPUs)

counted by ``torch.utils.flop_counter.FlopCounterMode`` on the meta device from SDXL-base's
configurations at 1024x1024: a step of the UNet over both branches of guidance, without the text's
projections (made once) and the attention to an empty negative prompt, is 12.915e12; the decoder is
10.470e12, the text encoders 0.111e12. 790e12 a second is what an 8192x8192x8192 product in 16 bits
was measured to run at on an H200 (768 to 798, random data, ``torch.matmul``).
Convolutions and projections grow with the picture's area, self-attention with its square.
"""

from __future__ import annotations

from dataclasses import dataclass

RATE = 790e12
SIDE = 1024
# Self-attention, and all else.
STEP_ATTENTION = 1.504e12
STEP_REST = 12.915e12 - STEP_ATTENTION
DECODER_ATTENTION = 0.550e12
DECODER_REST = 10.470e12 - DECODER_ATTENTION
TEXT = 0.111e12


def picture_flops(steps: int, size: int) -> float:
    """Operations of one picture with guidance and no negative prompt."""
    area = (size / SIDE) ** 2
    step = STEP_REST * area + STEP_ATTENTION * area**2
    decoder = DECODER_REST * area + DECODER_ATTENTION * area**2
    return steps * step + decoder + TEXT


def floor_s(steps: int, size: int, gpus: int = 1) -> float:
    """Seconds below which no picture is made on so many GPUs like an H200."""
    return picture_flops(steps, size) / RATE / gpus


@dataclass(frozen=True)
class Picture:
    """So many steps with guidance, of a square picture, by so many GPUs together."""

    steps: int
    size: int
    gpus: int = 1

    def columns(self, seconds: float) -> str:
        """Cells of a table: the floor, the seconds over it, and what others have reached."""
        floor = floor_s(self.steps, self.size, self.gpus)
        return f"{floor:.3f} | {seconds / floor:.2f} | {ANCHORS.get(self, '')}"


# Published figures of SDXL with guidance, one picture at a time.
ANCHORS = {
    Picture(20, 1024): "2.28 s: OneDiff nexfort, A800 (onediff@98898c4)",
    Picture(30, 1024): "1.47 s: TensorRT, H100 (stable-diffusion-xl-1.0-tensorrt)",
    Picture(50, 1024): "4.10 s: TensorRT 9.0, A100 (stable-diffusion-benchmarks@c0fa82c)",
    Picture(50, 1024, 2): "1.72 s: TensorRT-LLM, 2 H100 (its examples/models/contrib/sdxl)",
    Picture(50, 1024, 4): "2.26 s: DistriFusion, 4 A100, stale (distrifuser@8aebdd6)",
    Picture(50, 1024, 8): "1.77 s: DistriFusion, 8 A100, stale (distrifuser@8aebdd6)",
    Picture(50, 2048, 2): "13.3 s: DistriFusion, 2 A100 (distrifuser@8aebdd6)",
    Picture(50, 2048, 4): "7.60 s: DistriFusion, 4 A100, stale (distrifuser@8aebdd6)",
    Picture(50, 2048, 8): "4.81 s: DistriFusion, 8 A100, stale (distrifuser@8aebdd6)",
    Picture(50, 3840, 4): "41.3 s: DistriFusion, 4 A100, stale (distrifuser@8aebdd6)",
    Picture(50, 3840, 8): "22.9 s: DistriFusion, 8 A100, stale (distrifuser@8aebdd6)",
}
# Pictures per second and GPU, 20 steps, any batch.
THROUGHPUT_ANCHOR = "2.40: MLPerf v5.1, H200, FP8 and INT8, batch 64"
