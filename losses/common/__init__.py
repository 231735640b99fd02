"""What the losses share: how a batch is gathered and matched, and their base."""
