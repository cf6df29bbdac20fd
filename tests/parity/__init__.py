"""What each of the five systems that Bellhop can take the place of does, operation by operation."""
