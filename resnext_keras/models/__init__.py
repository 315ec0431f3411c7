"""The networks: their table, blocks, layers and builders."""
