"""Prepares a TensorFlow Datasets set as array_record: `python -m cnnjax.data.prepare NAME [--data-dir DIR]`.

The one program here that imports TensorFlow (the extra `tfds`). What it prepares is read without.
"""

import argparse
import importlib.util
import os
import socket
import sys
from pathlib import Path

from cnnjax.data import tfds
from cnnjax.errors import UserError, one_line


def prepare(name: str, path: str) -> Path:
    """Downloads (unless an archive of the expected name lies in `<data_dir>/downloads/manual`) and prepares `name`.

    Returns the prepared folder. Raises `UserError` at once without TensorFlow or a network: TFDS alone would try
    again for minutes.
    """
    if importlib.util.find_spec("tensorflow") is None:
        raise UserError(f"preparing the TFDS set {name!r} needs TensorFlow: pip install 'cnnjax[tfds]'")
    if not tfds.is_known(name, path):
        raise UserError(f"TFDS has no set {name!r}")
    import tensorflow_datasets
    from tensorflow_datasets.core.download import downloader

    downloader.MAX_RETRIES = 0
    socket.setdefaulttimeout(30)
    made = tfds.builder(name, path)
    manual = tfds.data_dir(path) / "downloads" / "manual"
    manual.mkdir(parents=True, exist_ok=True)
    settings = tensorflow_datasets.download.DownloadConfig(manual_dir=manual, try_download_gcs=False)
    try:
        made.download_and_prepare(download_config=settings, file_format="array_record")
    except Exception as error:      # TFDS lets through what its parts raise: requests, TensorFlow, its own
        causes: list[BaseException] = [error]
        while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
            causes.append(cause)
        text = " ".join(f"{type(cause).__name__} {cause}" for cause in causes)
        if any(sign in text for sign in ("ConnectionError", "ConnectTimeout", "MaxRetryError", "URLError", "gaierror")):
            wanted = ", ".join(f"{info.filename or url} ({url})" for url, info in made.url_infos.items()
                               if not (manual / str(info.filename)).is_file())
            raise UserError(f"no network to download the TFDS set {name!r}: put {wanted or 'its files'} into {manual}, "
                            f"or copy a prepared {made.data_dir} here") from None
        raise UserError(f"TFDS set {name!r} cannot be prepared: {type(error).__name__}: "
                        f"{one_line(error)[:500]}") from None
    return Path(made.data_dir)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m cnnjax.data.prepare", description=__doc__)
    parser.add_argument("name", help="a TFDS name: cifar10, cifar100, fashion_mnist, ...")
    parser.add_argument("--data-dir", default="", help="default: $TFDS_DATA_DIR or ~/tensorflow_datasets")
    arguments = parser.parse_args()
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")       # TensorFlow must not take the accelerator's memory
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        print(prepare(arguments.name, arguments.data_dir))
    except UserError as error:
        sys.exit(_exit_with(str(error)))


def _exit_with(message: str) -> int:
    print(message, file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
