"""The layouts that other tools read, one module each; `attar.export` is their door."""
