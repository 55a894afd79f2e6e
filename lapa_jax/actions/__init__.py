"""Stage 3: heads that turn what a VLM knows into actions, by name, each with its loss and its decoding."""
