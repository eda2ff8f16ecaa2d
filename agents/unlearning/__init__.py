"""Classical unlearning: retraining, fine-tuning and dampening."""
