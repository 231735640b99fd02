"""The commands of ``csd``, each with a sentence for its help."""

TRAINER_COMMANDS = {
    "fit": "Train a model, as a file given with --config says.",
    "validate": "Score the validation items with a checkpoint.",
    "test": "Score the test items with a checkpoint.",
    "predict": "Write the embeddings of the test items to a file.",
}
FURTHER_COMMANDS = {
    "export": "Write what retrieval needs of a checkpoint into a folder, which can then be moved.",
    "search": "Search in a folder of images, texts or sounds by an exported model.",
}
