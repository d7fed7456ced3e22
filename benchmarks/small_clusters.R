# A process that fits several responses of one design with lme4 each time it is told to.
#
#   Rscript small_clusters.R NAME.csv RIGHT-HAND-SIDE COUNT
#
# The responses are the columns y0, y1, ... A command is a number of quadrature nodes; the answer
# holds the log-likelihood of each response as lme4 gives it, and the standard deviations. They are
# to be compared to many digits, hence the tight tolerances.

args <- commandArgs(trailingOnly = TRUE)
script <- sub("^--file=", "", grep("^--file=", commandArgs(), value = TRUE))
source(file.path(dirname(script), "protocol.R"))
suppressWarnings(suppressPackageStartupMessages(library(lme4)))
data <- read.csv(args[1])
for (name in c("inner", "outer")) data[[name]] <- factor(data[[name]])
control <- glmerControl("bobyqa", optCtrl = list(rhoend = 1e-8), tolPwrss = 1e-12)

ready("lme4")
input <- file("stdin", "r")
while (length(line <- readLines(input, 1)) == 1) {
  tryCatch(
    {
      loglik <- sd <- numeric()
      for (i in seq_len(as.integer(args[3]))) {
        formula <- as.formula(paste0("y", i - 1, " ~ ", args[2]))
        fit <- suppressMessages(suppressWarnings(
          glmer(formula, data, binomial(), control, nAGQ = as.integer(line))
        ))
        loglik <- c(loglik, as.numeric(logLik(fit)))
        sd <- c(sd, abs(getME(fit, "theta")))
      }
      say(field("loglik", numbers(loglik)), field("sd", numbers(sd)))
    },
    error = failed
  )
}
