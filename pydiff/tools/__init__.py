"""Programs that make many pictures with a pipeline."""
