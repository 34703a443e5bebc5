--- Limits of the compiler. Debian's suit small programs: many protocol branches overflow them and flush every trace,
--- again and again.
return function()
  if jit.status() then jit.opt.start("maxtrace=8000", "maxrecord=16000", "maxmcode=8192", "sizemcode=256") end
end
