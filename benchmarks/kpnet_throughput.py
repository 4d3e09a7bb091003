"""Images per second of KPNet on an accelerator, for large batches: the network alone, and the whole detection.

    python benchmarks/kpnet_throughput.py --run runs/kpnet --data DATA

Three numbers, each for batches of one size: the ``network``, on pixels in the memory of the device; with the
``extraction`` of proposals and landmarks; and ``faces``, from decoded photos in main memory to boxes, scores and
landmarks there, in one process.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import kept
import numpy as np
import torch
from torch import Tensor

from lineament.data.readers.coco import read_coco
from lineament.evaluate.origin import origin, packages
from lineament.evaluate.results import Result
from lineament.images import read_image, resize
from lineament.methods.kpnet import training
from lineament.methods.kpnet.decode import Config, KPNetDecoder
from lineament.methods.kpnet.export import Extractor
from lineament.methods.kpnet.heads import Heads, build
from lineament.methods.kpnet.network import KPNet
from lineament.schemas import schema
from lineament.train.checkpoint import best_weights
from lineament.train.run import RECIPE
from lineament.train.task import to_input


class Halved(Extractor):
    """The network in bfloat16, the extraction in float32.

    Args:
        network: The network, folded.
        heads: Its heads.
        fuse: Fuse the network's layers with torch.compile.
    """

    def __init__(self, network: KPNet, heads: Heads, *, fuse: bool = False) -> None:
        super().__init__(network, heads)
        self._fused = torch.compile(self._computed, mode="max-autotune") if fuse else self._computed

    def _computed(self, pixels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        features = self.network.features(pixels)
        return features, self.network.maps(features)

    def compute(self, pixels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Pixels (n, h, w, 3) uint8 -> the network's features and maps."""
        with torch.autocast(pixels.device.type, torch.bfloat16):
            return self._fused(to_input(pixels))

    def forward(self, pixels: Tensor, threshold: Tensor) -> dict[str, Tensor]:
        """As in ``Extractor``."""
        features, maps = self.compute(pixels)
        maps = {name: map_.float() for name, map_ in maps.items()}
        return self.heads.find(features.float(), maps, threshold).outputs()


class OnDevice:
    """Like `lineament.runtime.Graph`, but for a module on a device instead of a file."""

    def __init__(self, module: Halved, device: torch.device) -> None:
        self.module, self.device = module, device

    def __call__(self, entry: str, outputs: Sequence[str], **inputs: Any) -> list[Any]:
        found = self.module(**{name: torch.from_numpy(value).to(self.device) for name, value in inputs.items()})
        return [found[name].cpu().numpy() for name in outputs]


def rate(work: Callable[[], Any], count: int, seconds: float) -> float:
    """Images per second of work on this number of images, repeated for some seconds after three rounds to warm up."""
    for _ in range(3):
        work()
    synchronize = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    synchronize()
    began, rounds = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        work()
        synchronize()
        rounds += 1
    return count * rounds / (time.perf_counter() - began)


@torch.inference_mode()
def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of a training of KPNet")
    parser.add_argument("--data", type=Path, required=True, help="folder that the recipe's index files lie in")
    parser.add_argument("--size", type=int, default=256, help="longer edge in pixels")
    parser.add_argument("--batch", type=int, default=256, help="images at once")
    parser.add_argument("--seconds", type=float, default=4, help="for each figure")
    parser.add_argument("--compile", action="store_true", help="fuse the network's layers with torch.compile")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    recipe = training.read(args.run / RECIPE)
    heads = recipe.heads()
    network = build(len(schema(recipe.landmarks[0])), recipe.backbone, heads)
    network.load_state_dict(best_weights(args.run / "kpnet") or {})
    network.eval().fold()
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    module = Halved(network, heads, fuse=args.compile)
    paths = [sample.path for index in recipe.val for sample in read_coco(args.data / index)]
    photos = [read_image(path) for path in (paths * -(-args.batch // len(paths)))[: args.batch]]
    photos = [resize(p, tuple(max(1, round(s * args.size / max(p.shape[:2]))) for s in p.shape[1::-1])) for p in photos]
    square = np.zeros((args.batch, args.size, args.size, 3), np.uint8)
    for canvas, photo in zip(square, photos, strict=True):
        canvas[: photo.shape[0], : photo.shape[1]] = photo
    pixels = torch.from_numpy(square).to(device)
    detector = KPNetDecoder(OnDevice(module, device), Config(overview=False, input_size=args.size))  # type: ignore[arg-type]
    found = list(square)
    threshold = torch.full((args.batch,), detector.faintest(0.5), device=device)

    def faces() -> Any:
        return detector(found, threshold=0.5, min_face=1, max_face=None)

    figures = {
        "network": rate(lambda: module.compute(pixels), args.batch, args.seconds),
        "network, proposals and landmarks": rate(lambda: module(pixels, threshold), args.batch, args.seconds),
        "decoded images to faces": rate(faces, args.batch, args.seconds),
    }
    settings = {"input_size": args.size, "batch": args.batch, "compile": args.compile, "backbone": recipe.backbone}
    about = origin(weights=[], data=None, threads=None)
    about["packages"] |= packages("torch")
    if device.type == "cuda":
        host = f"host of {about['machine']['cores']} cores"
        about["machine"]["processor"] = f"{torch.cuda.get_device_name()}, {host}"
    for part, per_second in figures.items():
        result = Result("throughput", part, {"images a second": per_second}, settings=settings, origin=about)
        kept.keep("kpnet-throughput", part, result)


if __name__ == "__main__":
    main()
