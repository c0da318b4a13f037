"""Keys of a configuration and their values, for tests over all of them."""

from jaxdp.config_file import flat_keys


def value_of(config, key):
    for name in key.split("."):
        config = config[name]
    return config


def leaf_keys(config):
    groups = {key.rsplit(".", 1)[0] for key in flat_keys(config) if "." in key}
    return [key for key in flat_keys(config) if key not in groups]
