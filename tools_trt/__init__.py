"""The senses: typed pre -> session -> post per tool; nothing here knows the agent."""
