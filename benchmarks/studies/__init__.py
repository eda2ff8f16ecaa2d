"""Single studies on leaderboard rows."""
