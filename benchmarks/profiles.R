# A process that fits one case with lme4, then profiles all its parameters each time it is told to.
#
#   Rscript profiles.R NAME.csv FORMULA FAMILY
#
# Commands and answers are those of worker.py, with "profile" in place of "fit". Settings are lme4's
# defaults. Only `profile` is timed.

args <- commandArgs(trailingOnly = TRUE)
path <- args[1]
formula <- as.formula(args[2])
family <- if (args[3] == "poisson") poisson() else binomial()

quoted <- function(text) {
  text <- gsub("[[:cntrl:]]+", " ", text)
  paste0("\"", gsub("\"", "\\\"", gsub("\\", "\\\\", text, fixed = TRUE), fixed = TRUE), "\"")
}
numbers <- function(x) {
  paste0("[", paste(ifelse(is.finite(x), sprintf("%.15g", x), "NaN"), collapse = ", "), "]")
}
say <- function(...) {
  cat("\n@@ {", paste(..., sep = ", "), "}\n", sep = "")
  flush(stdout())
}
field <- function(name, value) paste0("\"", name, "\": ", value)
failed <- function(e) say(field("error", quoted(conditionMessage(e))))

fit <- tryCatch(
  {
    suppressWarnings(suppressPackageStartupMessages(library(lme4)))
    levels_of <- strsplit(readLines(sub("csv$", "levels", path), encoding = "UTF-8"), "\t")
    names(levels_of) <- vapply(levels_of, `[`, "", 1)
    header <- names(read.csv(path, nrows = 1, check.names = FALSE))
    classes <- ifelse(header %in% names(levels_of), "character", NA)
    data <- read.csv(path, colClasses = classes, check.names = FALSE)
    for (name in names(levels_of)) {
      data[[name]] <- factor(data[[name]], levels = levels_of[[name]][-1])
    }
    suppressWarnings(glmer(formula, data = data, family = family))
  },
  error = function(e) {
    failed(e)
    quit("no")
  }
)
version <- function(name) field(name, quoted(as.character(packageVersion(name))))
say(
  field("ready", "true"),
  field("versions", paste0(
    "{", field("R", quoted(as.character(getRversion()))), ", ", version("lme4"), ", ",
    version("Matrix"), "}"
  ))
)

commands <- file("stdin", "r")
repeat {
  command <- readLines(commands, 1)
  if (length(command) == 0 || command == "quit") break
  invisible(gc())
  tryCatch(
    {
      begin <- as.numeric(Sys.time())
      cpu <- sum(proc.time()[1:2])
      found <- suppressWarnings(profile(fit, signames = FALSE))
      seconds <- as.numeric(Sys.time()) - begin
      cpu <- sum(proc.time()[1:2]) - cpu
      limits <- suppressWarnings(confint(found))
      say(
        field("seconds", sprintf("%.15g", seconds)),
        field("cpu", sprintf("%.15g", cpu)),
        field("points", as.character(nrow(found))),
        field("reach", sprintf("%.15g", max(abs(found$.zeta)))),
        field("names", paste0("[", paste(quoted(rownames(limits)), collapse = ", "), "]")),
        field("lower", numbers(limits[, 1])),
        field("upper", numbers(limits[, 2]))
      )
    },
    error = failed
  )
}
