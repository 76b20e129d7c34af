"""The kinds of models, and which one a run is given."""

from __future__ import annotations

from typing import Protocol, TypeAlias

from beam_semdedup.embed.encoder import Encoder, ModelFiles
from beam_semdedup.embed.images import ImageEncoder, VisionFiles
from beam_semdedup.embed.torch_model import TorchEncoder, TorchFiles

Model: TypeAlias = ModelFiles | VisionFiles | TorchFiles
TextModel: TypeAlias = ModelFiles | TorchFiles
AnyEncoder: TypeAlias = Encoder | ImageEncoder | TorchEncoder
"""What a `Model` is once it is loaded."""


class Given(Protocol):
    """The parameters that say which model embeds texts."""

    @property
    def model(self) -> str | None: ...
    @property
    def model_revision(self) -> str | None: ...
    @property
    def pooling(self) -> str | None: ...
    @property
    def max_tokens(self) -> int | None: ...


def find_text_model(p: Given) -> TextModel:
    """Returns the model of texts that the parameters name: of ONNX where there is one, else of sentence-transformers.

    Raises:
        InputError: there is none, or its configuration asks for what is not here.
    """
    model = str(p.model)
    if not ModelFiles.are_in(model) and TorchFiles.are_in(model):
        return TorchFiles.find(model, p.pooling, p.max_tokens)
    return ModelFiles.find(model, p.pooling, p.max_tokens, p.model_revision)
