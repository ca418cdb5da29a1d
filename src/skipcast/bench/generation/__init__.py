"""Many pictures from a file of prompts, with one method or plan: resumable, and the same whoever draws them."""
