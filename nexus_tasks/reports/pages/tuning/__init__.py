"""Page of a server before and after a change."""
