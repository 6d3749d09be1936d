"""NetworkSpec -> network, and what a network costs, by arithmetic."""
