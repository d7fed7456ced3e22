# A process that reads one case, fits it with lme4 and bootstraps it each time it is told to.
#
#   Rscript bootmer.R NAME.csv FORMULA FAMILY
#
# A command is "N SEED CORES"; the answer is the time of lme4::bootMer for N replicates.

args <- commandArgs(trailingOnly = TRUE)
suppressWarnings(suppressPackageStartupMessages(library(lme4)))
levels_of <- strsplit(readLines(sub("csv$", "levels", args[1]), encoding = "UTF-8"), "\t")
names(levels_of) <- vapply(levels_of, `[`, "", 1)
header <- names(read.csv(args[1], nrows = 1, check.names = FALSE))
classes <- ifelse(header %in% names(levels_of), "character", NA)
data <- read.csv(args[1], colClasses = classes, check.names = FALSE)
for (name in names(levels_of)) {
  data[[name]] <- factor(data[[name]], levels = levels_of[[name]][-1])
}
family <- if (args[3] == "poisson") poisson() else binomial()
fit <- suppressWarnings(glmer(as.formula(args[2]), data = data, family = family))
statistic <- function(fit) c(fixef(fit), getME(fit, "theta"))

say <- function(text) {
  cat("\n@@ ", text, "\n", sep = "")
  flush(stdout())
}
say(sprintf(
  "{\"versions\": {\"R\": \"%s\", \"lme4\": \"%s\"}}",
  paste(R.version$major, R.version$minor, sep = "."), packageVersion("lme4")
))
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
  say(sprintf("{\"seconds\": %.6f, \"se\": [%s]}", time, paste(sprintf("%.8g", se), collapse = ", ")))
}
