"""What is asked of a server: sizes, synthetic prompts, files of prompts, conversations, request bodies."""
