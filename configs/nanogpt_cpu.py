from jaxdp import defaults


def get_config():
    config = defaults.get_config()
    config.total_steps = 2000
    config.global_batch_size = 12
    config.data.source = "text"
    config.data.path = "data/tinyshakespeare.txt"
    config.data.tokenizer = "char"
    config.data.length = 64
    config.model.preset = "nano"
    config.optim.learning_rate = 1e-3
    config.optim.end_learning_rate = 1e-4
    config.optim.b2 = 0.99
    config.eval.every_steps = 500
    return config
