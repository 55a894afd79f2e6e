"""Videos and folders of frames, decoded once to RLDS."""
