//! The naive evaluator, straight from the API's words. Shares nothing with the compiler but the model.
