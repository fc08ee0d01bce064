"""Reading safetensors files."""

import pathlib

import safetensors

from ._state_dict import Checkpoint, checkpoint_from, own_array


def read_safetensors_file(path: str | pathlib.Path) -> Checkpoint:
    """Reads a safetensors file.

    Args:
        path: The file, usually `*.safetensors`.

    Returns:
        The tensors by name, in the order in which they lie there; the file's metadata,
        texts by name, are the extras.

    Raises:
        ValueError: If the file is damaged, or holds numbers that NumPy does not know.
        OSError: If the file can't be read.

    References:
        https://github.com/huggingface/safetensors, section "Format".
    """
    path = pathlib.Path(path)
    path.open("rb").close()  # The library's own error for what can't be read is bare.
    try:
        with safetensors.safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            tensors = {
                name: own_array(file.get_tensor(name)) for name in file.offset_keys()
            }
        return checkpoint_from(tensors, source=str(path))._replace(extras=metadata)
    except (safetensors.SafetensorError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"{path}: no readable safetensors file: {reason}.") from error
