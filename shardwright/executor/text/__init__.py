"""Text as a model's own tokens: its tokenizer, conversations with the tokens that are answers, and the tokens of a run on the disk."""

from .conversations import read_conversations
from .store import META, StoredTokens, TokenDocument, find_tokens, write_tokens
from .tokenizer import Tokenizer, holds_tokenizer, in_batches

__all__ = [
    "META",
    "StoredTokens",
    "TokenDocument",
    "Tokenizer",
    "find_tokens",
    "holds_tokenizer",
    "in_batches",
    "read_conversations",
    "write_tokens",
]
