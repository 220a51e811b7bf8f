"""A dual encoder that stays as it is, adapted to a task by a few parameters and a few samples."""
