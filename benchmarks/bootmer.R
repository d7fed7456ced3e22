# A process that reads one case, fits it with lme4 and bootstraps it each time it is told to.
#
#   Rscript bootmer.R NAME.csv FORMULA FAMILY
#
# A command is "N SEED CORES"; the answer is the time of lme4::bootMer for N replicates.

args <- commandArgs(trailingOnly = TRUE)
script <- sub("^--file=", "", grep("^--file=", commandArgs(), value = TRUE))
source(file.path(dirname(script), "protocol.R"))
suppressWarnings(suppressPackageStartupMessages(library(lme4)))
data <- read_case(args[1])
family <- if (args[3] == "poisson") poisson() else binomial()
fit <- suppressWarnings(glmer(as.formula(args[2]), data = data, family = family))
statistic <- function(fit) c(fixef(fit), getME(fit, "theta"))

ready("lme4")
input <- file("stdin", "r")
while (length(line <- readLines(input, 1)) == 1) {
  asked <- as.integer(strsplit(line, " ")[[1]])
  # Of a parallel run bootMer's own way on this system: forked processes.
  parallel <- if (asked[3] > 1) "multicore" else "no"
  time <- system.time(
    found <- suppressMessages(suppressWarnings(
      bootMer(fit, statistic, nsim = asked[1], seed = asked[2], parallel = parallel,
              ncpus = asked[3])
    ))
  )[["elapsed"]]
  se <- apply(found$t, 2, sd, na.rm = TRUE)
  say(field("seconds", number(time)), field("se", numbers(se)))
}
