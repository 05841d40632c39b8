"""The file: what is stored of a distilled set, and how it is read, merged, streamed and measured."""
