# Thousand Island: thousand_island.exs PORT
defmodule Echo do
  use ThousandIsland.Handler
  @impl ThousandIsland.Handler
  def handle_data(bytes, socket, state) do
    ThousandIsland.Socket.send(socket, bytes)
    {:continue, state}
  end
end

Logger.configure(level: :error)
{:ok, _} = Application.ensure_all_started(:telemetry)
[port] = System.argv()
{:ok, _} = ThousandIsland.start_link(port: String.to_integer(port), handler_module: Echo, num_acceptors: 100,
  num_connections: :infinity, read_timeout: :infinity,
  transport_options: [ip: {127, 0, 0, 1}, backlog: 4096, nodelay: true])
Process.sleep(:infinity)
