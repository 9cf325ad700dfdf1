"""Who answers prompts: the protocol `Generator`, the generators that keep it, the prompts, and how they are asked."""
