"""The presets: one YAML file each, found by `kgpt.config.presets`."""
