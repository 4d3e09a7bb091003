"""A KPNet run's weights in integers of 8 bits, for onnxruntime: how the shipped `kpnet-int8` is made.

    python benchmarks/kpnet_int8.py --run runs/kpnet --data DATA --out runs/kpnet/kpnet-int8.onnx

Ranges are taken from training photos. Settings, evidence and calibration are those of the run.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from numpy.typing import NDArray

import lineament
from lineament.data.readers.coco import read_coco
from lineament.export import export
from lineament.methods.kpnet import training
from lineament.methods.kpnet.decode import Config
from lineament.methods.kpnet.decode import KPNet as Decoder
from lineament.methods.kpnet.entries import entries
from lineament.methods.kpnet.network import KPNet
from lineament.methods.kpnet.quantise import quantise
from lineament.runtime import load_graph
from lineament.train.checkpoint import best_weights
from lineament.weights import parse_metadata, register


def views(decoder: Decoder, index: Path, count: int) -> Iterator[NDArray[Any]]:
    """Photos as the network sees them, drawn evenly from an index."""
    samples = read_coco(index)
    for sample in samples[:: max(len(samples) // count, 1)][:count]:
        yield from (view.pixels for view in decoder.views(0, lineament.read_image(sample.path)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=48, help="that ranges are taken from")
    parser.add_argument("--scores", type=Path, help="JSON file with figures by name, which the file will carry")
    args = parser.parse_args()
    whole = load_graph((args.run / training.FILE).read_bytes())
    decoder = Decoder(whole, replace(Config(**parse_metadata(whole.metadata)[1]), input_size=512))
    network = KPNet(len(decoder.schema), decoder.config.backbone)
    network.load_state_dict(best_weights(args.run / "kpnet") or {})
    metadata = whole.metadata | {"name": f"{whole.metadata['name']}-int8", "runtime": "onnx"}
    if args.scores:
        metadata["scores"] = json.dumps(json.loads(args.scores.read_text()))
    with TemporaryDirectory() as folder:
        two = entries(network, landmarks=decoder.schema, two_passes=True)
        file = export(two, Path(folder) / "two.onnx", metadata=metadata)
        recipe = training.read(args.run / training.RECIPE)
        register(quantise(file, args.out, views(decoder, args.data / recipe.train[0], args.pictures)))


if __name__ == "__main__":
    main()
