"""The class of sentence-transformers for whoever wants vectors, without torch."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from . import _native, _progress
from ._quantization import PRECISIONS, quantize
from ._similarity import checked, similarity, similarity_pairwise

logger = logging.getLogger(__name__)

#: The names under which a model may have the prompt of documents, in the order in which they are looked for.
DOCUMENTS = ("document", "passage", "corpus")

Method = TypeVar("Method", bound=Callable[..., Any])


def _with_former_name(call: Method) -> Method:
    """`sentences` was the name of `inputs` before sentence-transformers 6, and is still taken there."""

    @wraps(call)
    def renamed(*args: Any, **kwargs: Any) -> Any:
        if "sentences" in kwargs:
            logger.warning("sentences is called inputs now")
            former = kwargs.pop("sentences")
            kwargs.setdefault("inputs", former)
        return call(*args, **kwargs)

    return cast("Method", renamed)


class SentenceTransformer:
    """A model by hub id, directory, or the address of a store; without a name the bundled all-MiniLM-L6-v2.

    Parameters are those of `sentence_transformers.SentenceTransformer` 6 that make sense here; `arithmetic`, `cache` and
    `threads` are this package's own: "f32", "bf16" or "int8" is what a model is computed in, `cache` a folder in which vectors are
    kept, `threads` at most so many cores (0: all).

    Raises OSError where the model is not found, ValueError for what cannot be, NotImplementedError for what is not done here:
    training, token embeddings, models with code of their own.
    """

    def __init__(
        self,
        model_name_or_path: str | os.PathLike[str] | None = None,
        *,
        modules: object | None = None,
        device: object | None = None,
        prompts: Mapping[str, str] | None = None,
        default_prompt_name: str | None = None,
        cache_folder: str | None = None,
        trust_remote_code: bool = False,
        revision: str | None = None,
        local_files_only: bool = False,
        token: bool | str | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        config_kwargs: Mapping[str, Any] | None = None,
        model_card_data: object | None = None,
        backend: str = "datafusion",
        similarity_fn_name: str | None = None,
        truncate_dim: int | None = None,
        arithmetic: str = "f32",
        cache: str | os.PathLike[str] | None = None,
        threads: int = 0,
    ) -> None:
        refused = {
            "modules": modules,
            "cache_folder": cache_folder,
            "model_kwargs": model_kwargs,
            "processor_kwargs": processor_kwargs,
            "config_kwargs": config_kwargs,
        }
        for name, value in refused.items():
            if value:
                raise NotImplementedError(f"{name}: not here; {_REFUSED[name]}")
        if trust_remote_code:
            raise NotImplementedError("trust_remote_code: code that comes with a model is never run here")
        if isinstance(token, str):
            raise NotImplementedError("token: set HF_TOKEN, or log in by `hf auth login`")
        if backend not in ("datafusion", "torch"):
            raise NotImplementedError(f"backend {backend!r}: there is one here, of this package")
        name = str(model_name_or_path) if model_name_or_path is not None else "all-MiniLM-L6-v2"
        self._settings: dict[str, Any] = {
            "arithmetic": arithmetic,
            "device": _device(device),
            "cache": str(cache or ""),
            "offline": local_files_only,
            "threads": threads,
        }
        self._name = f"{name}@{revision}" if revision else name
        self._model = _native.Model(self._name, **self._settings)
        self.prompts: dict[str, str] = {"query": "", "document": "", **self._model.prompts, **dict(prompts or {})}
        self.default_prompt_name = default_prompt_name or self._model.default_prompt
        if self.default_prompt_name is not None:
            self._prompt(None, self.default_prompt_name)
        self._similarity = checked(similarity_fn_name or "cosine")
        self.truncate_dim = _dimensions(truncate_dim)

    @_with_former_name
    def encode(
        self,
        inputs: str | Sequence[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: str | None = "sentence_embedding",
        precision: str | None = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: object | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        pool: object | None = None,
        chunk_size: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """The vectors of texts, in their order: an array `[texts, dim]`, or `[dim]` of one that is no list.

        Equal texts go through the model once. `batch_size`, `pool` and `chunk_size` are read and change nothing: model batches are
        cut by tokens, and all cores are used.
        """
        kwargs.pop("task", None)  # only a model with a part for each task would ask for it, which is refused
        if kwargs:
            raise ValueError(f"encode does not know {', '.join(map(repr, sorted(kwargs)))}")
        if batch_size <= 0:
            raise ValueError(f"batch_size is {batch_size}: it is 1 or more")
        precision = precision or "float32"
        if precision not in PRECISIONS:
            raise ValueError(f"precision {precision!r}: it is one of {', '.join(PRECISIONS)}")
        if output_value != "sentence_embedding":
            raise NotImplementedError(f"output_value={output_value!r}: only vectors of whole texts")
        for wanted in device if isinstance(device, (list, tuple)) else [device]:
            self.to(wanted)
        is_one = isinstance(inputs, str) or not hasattr(inputs, "__len__")
        texts = _texts([inputs] if is_one else inputs)
        prefix = self._prompt(prompt, prompt_name)
        cut = _dimensions(truncate_dim) or self.truncate_dim
        with _progress.bar(show_progress_bar, len(texts)) as look:
            vectors = self._model.embed(texts, prefix, look)
        if cut is not None:
            vectors = vectors[:, :cut]
        if normalize_embeddings:
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        quantized = quantize(vectors, precision) if len(texts) else np.array([])
        if convert_to_tensor:
            return _tensor(quantized[0] if is_one else quantized)
        if not convert_to_numpy:
            return _tensor(quantized[0]) if is_one else [_tensor(row) for row in quantized]
        return quantized[0] if is_one else quantized

    @_with_former_name
    def encode_query(self, inputs: str | Sequence[str], prompt_name: str | None = None, prompt: str | None = None, **kwargs: Any) -> Any:
        """As `encode`, with the prompt of queries where no other is given."""
        if prompt is None and prompt_name is None and "query" in self.prompts:
            prompt_name = "query"
        return self.encode(inputs=inputs, prompt_name=prompt_name, prompt=prompt, task="query", **kwargs)

    @_with_former_name
    def encode_document(self, inputs: str | Sequence[str], prompt_name: str | None = None, prompt: str | None = None, **kwargs: Any) -> Any:
        """As `encode`, with the prompt of documents where no other is given."""
        if prompt is None and prompt_name is None:
            prompt_name = next((name for name in DOCUMENTS if name in self.prompts), None)
        return self.encode(inputs=inputs, prompt_name=prompt_name, prompt=prompt, task="document", **kwargs)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """`[rows of the first, rows of the second]`: a tensor where torch is there, else an array."""
        return _tensor_if_torch(similarity(self._similarity, embeddings1, embeddings2))

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Of each row to the same row of the other: a tensor where torch is there, else an array."""
        return _tensor_if_torch(similarity_pairwise(self._similarity, embeddings1, embeddings2))

    @property
    def similarity_fn_name(self) -> str:
        """"cosine", "dot", "euclidean" or "manhattan"."""
        return self._similarity

    @similarity_fn_name.setter
    def similarity_fn_name(self, name: str) -> None:
        self._similarity = checked(name)

    def get_embedding_dimension(self) -> int:
        """Length of a vector."""
        return min(self._model.dim, self.truncate_dim or self._model.dim)

    #: The name that it had before sentence-transformers 5.
    get_sentence_embedding_dimension = get_embedding_dimension

    def get_max_seq_length(self) -> int | None:
        """Tokens after which a text is cut, or None."""
        return self.max_seq_length

    @property
    def max_seq_length(self) -> int | None:
        """Tokens after which a text is cut, or None. It can be set."""
        return self._settings.get("max_tokens") or self._model.max_tokens

    @max_seq_length.setter
    def max_seq_length(self, tokens: int) -> None:
        settings = {**self._settings, "max_tokens": int(tokens)}
        self._model = _native.Model(self._name, **settings)
        self._settings = settings

    def count_tokens(self, inputs: Sequence[str]) -> list[int]:
        """Tokens of each text before it is cut, with the special ones; of this package alone."""
        return self._model.count_tokens(_texts(inputs))

    @property
    def device(self) -> _Device:
        """Where the model is computed: "cpu", "cuda:0" or "mps"."""
        return _Device({"metal": "mps"}.get(self._model.device, self._model.device))

    def to(self, device: object | None) -> SentenceTransformer:
        """The model itself. Raises NotImplementedError for another device than its own."""
        if device is not None and str(device) not in (self.device, self.device.type):
            raise NotImplementedError(f"device {str(device)!r}: a model stays on the device that it was made for, {str(self.device)!r}")
        return self

    @contextmanager
    def truncate_embeddings(self, truncate_dim: int | None) -> Iterator[None]:
        """Inside, vectors have so many values."""
        former, self.truncate_dim = self.truncate_dim, _dimensions(truncate_dim)
        try:
            yield
        finally:
            self.truncate_dim = former

    #: The name that it had before sentence-transformers 6.
    truncate_sentence_embeddings = truncate_embeddings

    def start_multi_process_pool(self, target_devices: object | None = None) -> dict[str, object]:
        """Nothing: one process uses all cores."""
        return {"input": None, "output": None, "processes": []}

    def stop_multi_process_pool(self, pool: object) -> None:
        """Nothing."""

    def eval(self) -> SentenceTransformer:
        """The model itself: it is never trained."""
        return self

    def __getattr__(self, name: str) -> Any:
        if name in _ELSEWHERE:
            raise NotHere(f"{name}: not here, where texts become vectors and nothing else; sentence-transformers has it")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __getstate__(self) -> dict[str, Any]:
        # Another process reads the model again.
        return {name: value for name, value in self.__dict__.items() if name != "_model"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._model = _native.Model(self._name, **self._settings)

    def __repr__(self) -> str:
        return f"SentenceTransformer({self._name!r}, arithmetic={self._settings['arithmetic']!r}, device={self.device!r})"

    def _prompt(self, prompt: str | None, name: str | None) -> str:
        if prompt is not None:
            if name is not None:
                logger.warning("prompt and prompt_name are both given: prompt is taken")
            return prompt
        name = name or self.default_prompt_name
        if name is None:
            return ""
        if name not in self.prompts:
            raise ValueError(f"prompt name {name!r}: the model has {', '.join(map(repr, self.prompts)) or 'none'}")
        return self.prompts[name]


class NotHere(AttributeError, NotImplementedError):
    """What the class of sentence-transformers has, and this one has not."""


#: Training, saving, and the parts of a model.
_ELSEWHERE = frozenset(
    """add_adapter active_adapters delete_adapter disable_adapters enable_adapters evaluate fit forward half load_adapter
    model_card_data modules named_parameters parameters preprocess push_to_hub save save_pretrained save_to_hub
    set_adapter set_pooling_include_prompt smart_batching_collate state_dict tokenize tokenizer train""".split()
)

_REFUSED = {
    "modules": "a model is its directory or hub id",
    "cache_folder": "set HF_HOME or HF_HUB_CACHE",
    "model_kwargs": "the arithmetic is a keyword of its own",
    "processor_kwargs": "max_seq_length can be set",
    "config_kwargs": "a model's configuration is that of its files",
}


class _Device(str):
    """A name that is equal to torch's device of the same name, without torch."""

    @property
    def type(self) -> str:
        return self.split(":")[0]

    def __eq__(self, other: object) -> bool:
        return str.__eq__(self, str(other))

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


def _device(device: object) -> str:
    if device is None:
        return "auto"
    return {"mps": "metal"}.get(str(device), str(device))


def _dimensions(wanted: int | None) -> int | None:
    if wanted is not None and wanted < 1:
        raise ValueError(f"truncate_dim is {wanted}: it is 1 or more, or None")
    return wanted


def _texts(inputs: Any) -> list[str]:
    texts = list(inputs)
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"inputs[{position}] is of type {type(text).__name__}: only texts can be embedded")
    return texts


def _tensor(values: npt.NDArray[Any]) -> Any:
    try:
        import torch
    except ImportError:
        raise ImportError("a tensor needs torch: pip install torch, or convert_to_numpy=True") from None
    return torch.from_numpy(np.ascontiguousarray(values))


def _tensor_if_torch(values: npt.NDArray[Any]) -> Any:
    try:
        import torch
    except ImportError:
        return values
    return torch.from_numpy(values)
