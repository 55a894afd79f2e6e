"""Cut the sample of Bridge, whose splits hold the same episodes, into episodes to train on and to hold out.

    python docs/results/split_sample.py SAMPLE/bridge_dataset/1.0.0 runs/bridge/1.0.0 18
"""

import json
import pathlib
import struct
import sys

source, out, count = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3])
data = (source / "bridge_dataset-train.tfrecord-00000-of-00001").read_bytes()
ends, at = [], 0
while at < len(data):
    at += 16 + struct.unpack_from("<Q", data, at)[0]  # length, its checksum, the record, its checksum
    ends.append(at)
out.mkdir(parents=True, exist_ok=True)
info = json.loads((source / "dataset_info.json").read_text())
cut = ends[count - 1]
for split, part, episodes in (("train", data[:cut], count), ("val", data[cut:], len(ends) - count)):
    (out / f"bridge_dataset-{split}.tfrecord-00000-of-00001").write_bytes(part)
    one = next(one for one in info["splits"] if one["name"] == split)
    one |= {"shardLengths": [str(episodes)], "numBytes": str(len(part))}
(out / "dataset_info.json").write_text(json.dumps(info))
(out / "features.json").write_bytes((source / "features.json").read_bytes())
