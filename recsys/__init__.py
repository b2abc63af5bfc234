"""Real-time recommendation and ranking: the nouns and rules every process shares.

Listing this package is reading the journey of an event: `events`, `features`, `data`,
`models`, `evaluation`, `bundle`, `inference`, `retrieval`, `ranking`, `pipeline`.
"""

__version__ = "0.1.0"
